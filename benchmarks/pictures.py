"""Draw one picture for each question: bars with their range, aiopool's beside its peers'.

A panel for each figure, a row for each contender, in every row a bar for each run. The bar is the
median, the line through it the range over the rounds. Where the values lie far apart the axis is
logarithmic and says so. Needs matplotlib, of the ``bench`` extra; without it nothing is drawn.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Rounds, column, figures, short

FAR_APART = 30
"""The ratio of the largest to the smallest median from which the axis is logarithmic."""

OURS = ("#0b5394", "#3d85c6", "#6fa8dc", "#9fc5e8")
THEIRS = ("#595959", "#8c8c8c", "#b3b3b3", "#d0d0d0")

HEIGHT, COLUMNS = 0.9, 3


def draw(name: str, question: str, runs: Mapping[str, Rounds], folder: Path) -> bool:
    """Write ``name``.png and .svg into ``folder``; False if matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = name
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys(f for rounds in runs.values() for f in figures(rounds)))
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    bars = len({contender for rounds in runs.values() for contender in rounds}) * len(runs)
    size = (4 + 3.2 * across, down * (1.1 + 0.16 * bars + 0.12 * bars / len(runs)) + 0.8)
    picture, grid = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for place, figure in zip(axes, panels, strict=False):
        panel(place, figure, runs)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    picture.suptitle(question)
    if len(runs) > 1:
        shades = [plt.Rectangle((0, 0), 1, 1, color=shade(OURS, n)) for n in range(len(runs))]
        picture.legend(shades, list(runs), loc="outside lower center", ncols=2, fontsize="small")
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else None
        picture.savefig(folder / f"{name}.{kind}", dpi=110, metadata=metadata)
    plt.close(picture)
    return True


def shade(colours: tuple[str, ...], run: int) -> str:
    """The colour of a run."""
    return colours[run % len(colours)]


def panel(axes: Any, figure: str, runs: Mapping[str, Rounds]) -> None:
    """The bars of one figure."""
    names = [
        c for c in contenders(runs) if any(column(r.get(c, ()), figure) for r in runs.values())
    ]
    thickness = HEIGHT / len(runs)
    middles = []
    for row, name in enumerate(names):
        colours = OURS if "aiopool" in name else THEIRS
        for turn, rounds in enumerate(runs.values()):
            values = column(rounds.get(name, ()), figure)
            if not values:
                continue
            middle = median(values)
            middles.append(middle)
            place = row - HEIGHT / 2 + (turn + 0.5) * thickness
            axes.barh(place, middle, thickness * 0.9, color=shade(colours, turn))
            axes.plot([min(values), max(values)], [place, place], color="black", linewidth=1)
            axes.text(max(*values, 0), place, f" {short(middle)}", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    far = min(middles) > 0 and max(middles) / min(middles) > FAR_APART
    if far:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(f"{figure} (logarithmic)" if far else figure, fontsize=9)


def contenders(runs: Mapping[str, Rounds]) -> list[str]:
    """Everyone in any run, in the order they first appeared."""
    return list(dict.fromkeys(name for rounds in runs.values() for name in rounds))
