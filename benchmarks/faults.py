"""What becomes of the others when one call goes wrong? Not a measurement: a matrix of outcomes.

Every scene is a program of its own: a pool of three, two innocent calls that run, the guilty one,
three innocents queued behind it, two sent when it is over, and then the pool is closed. Printed
is ``alone`` if the guilty call ended as it should (by an ``Exception`` that is not a cancellation,
or with its value where it has one) and all seven innocents gave theirs; else how many of them
were lost, ``lethal`` if it raised in the caller what ends a program or looks like the caller's
own cancellation, ``silent`` if its failure was reported as a value, ``stops`` if the whole
program ended, ``hangs`` if it was not over by the deadline. The last row is another
scene: the program is killed with SIGKILL while its calls sleep, and its processes that are left
three seconds later are counted.

Fair: everyone is used as its documentation shows for asyncio, with its defaults; who is not
installed is left out.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiopool
from benchmarks import mishaps

Submit = Callable[..., Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A guilty call; whether it has a value, and whether it is to be cancelled."""

    fn: Callable[..., object]
    args: tuple[object, ...] = ()
    has_value: bool = False
    cancel: bool = False


FAULTS = {
    "A1 exits with 0": Fault(os._exit, (0,)),
    "A2 exits with 1": Fault(os._exit, (1,)),
    "A3 reads address 0": Fault(mishaps.read_null),
    "A4 is killed": Fault(mishaps.stop),
    "A7 argument kills when freed": Fault(id, (mishaps.StopsWhenFreed(),), has_value=True),
    "B2 argument raises at pickle": Fault(mishaps.echo, (mishaps.RaisesAtPickle(),)),
    "B5 argument raises at unpickle": Fault(mishaps.echo, (mishaps.RaisesAtUnpickle(),)),
    "B6 argument kills at unpickle": Fault(mishaps.echo, (mishaps.StopsAtUnpickle(),)),
    "B7 result does not pickle": Fault(mishaps.give_lock),
    "B8 result raises at unpickle": Fault(mishaps.give_bad),
    "B8 result exits at unpickle": Fault(mishaps.give_leave),
    "B9 result kills at pickle": Fault(mishaps.give_stop),
    "B10 error does not unpickle": Fault(mishaps.throw_two),
    "B11 error does not pickle": Fault(mishaps.throw_lock),
    "B13 error is false": Fault(mishaps.throw_false),
    "B15 error is a value": Fault(mishaps.give_error, has_value=True),
    "C1 SystemExit": Fault(mishaps.throw_leave),
    "C1 KeyboardInterrupt": Fault(mishaps.throw, (KeyboardInterrupt,)),
    "C2 CancelledError": Fault(mishaps.throw, (mishaps.CANCELLED,)),
    "C3 StopIteration": Fault(mishaps.throw, (StopIteration,)),
    "C4 GeneratorExit": Fault(mishaps.throw, (GeneratorExit,)),
    "D1 stuck in C, cancelled": Fault(mishaps.stuck, ("{folder}",), cancel=True),
}
QUICK = ("A1 exits with 0", "B5 argument raises at unpickle", "B15 error is a value")
ORPHANS = "E1 program is killed"


# --- contenders -----------------------------------------------------------------------------


@asynccontextmanager
async def with_aiopool() -> AsyncIterator[Submit]:
    """``pool.submit``."""
    async with aiopool.Pool(3) as pool:
        yield pool.submit


@asynccontextmanager
async def with_executor() -> AsyncIterator[Submit]:
    """``run_in_executor`` on a ``ProcessPoolExecutor``."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(3) as executor:
        yield lambda fn, *args: loop.run_in_executor(executor, fn, *args)


@asynccontextmanager
async def with_pebble() -> AsyncIterator[Submit]:
    """``ProcessPool.schedule``, its future wrapped."""
    import pebble

    with pebble.ProcessPool(max_workers=3) as pool:
        yield lambda fn, *args: asyncio.wrap_future(pool.schedule(fn, args=args))


@asynccontextmanager
async def with_loky() -> AsyncIterator[Submit]:
    """``run_in_executor`` on its reusable executor."""
    import loky

    loop = asyncio.get_running_loop()
    executor = loky.get_reusable_executor(max_workers=3)
    yield lambda fn, *args: loop.run_in_executor(executor, fn, *args)
    executor.shutdown()


@asynccontextmanager
async def with_anyio() -> AsyncIterator[Submit]:
    """``to_process.run_sync`` in a task, cancellable."""
    from anyio import CapacityLimiter, to_process

    limiter = CapacityLimiter(3)

    def submit(fn: Callable[..., object], *args: object) -> Awaitable[object]:
        call = to_process.run_sync(fn, *args, cancellable=True, limiter=limiter)
        return asyncio.ensure_future(call)

    yield submit


@asynccontextmanager
async def with_deadpool() -> AsyncIterator[Submit]:
    """``run_in_executor`` on a ``Deadpool``."""
    import deadpool

    loop = asyncio.get_running_loop()
    with deadpool.Deadpool(max_workers=3) as executor:
        yield lambda fn, *args: loop.run_in_executor(executor, fn, *args)


CONTENDERS = {
    "aiopool": ("aiopool", with_aiopool),
    "ProcessPoolExecutor": ("concurrent.futures", with_executor),
    "pebble": ("pebble", with_pebble),
    "loky": ("loky", with_loky),
    "anyio": ("anyio", with_anyio),
    "deadpool": ("deadpool", with_deadpool),
}


# --- a scene, in a program of its own -------------------------------------------------------


async def exists(folder: str, name: str) -> None:
    """Wait for a file."""
    while not Path(folder, name).exists():
        await asyncio.sleep(0.005)


def submitted(submit: Submit, fn: Callable[..., object], *args: object) -> Awaitable[object]:
    """Submit it; what is raised at once is an outcome like any other."""
    try:
        return submit(fn, *args)
    except Exception as error:  # noqa: BLE001 - whatever a library does
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future


def is_right(fault: Fault, end: object) -> bool:
    """Whether the guilty call ended as it should."""
    if fault.cancel:
        return True  # what counts is that the others go on
    if fault.has_value:
        return isinstance(end, int | ValueError) and getattr(end, "__traceback__", None) is None
    return isinstance(end, Exception)


async def play(contender: str, name: str, folder: str) -> str:
    """Play the scene and give its verdict."""
    fault = FAULTS[name]
    args = [folder if arg == "{folder}" else arg for arg in fault.args]
    async with CONTENDERS[contender][1]() as submit:
        running = [submitted(submit, mishaps.gate, folder, f"gate{n}") for n in range(2)]
        await exists(folder, "gate0")
        await exists(folder, "gate1")
        guilty = submitted(submit, fault.fn, *args)
        queued = [submitted(submit, mishaps.add, n, 1) for n in range(3)]
        if fault.cancel:
            await exists(folder, "stuck")
            guilty.cancel()  # type: ignore[attr-defined]
        (end,) = await asyncio.gather(guilty, return_exceptions=True)
        ends = await asyncio.gather(*queued, return_exceptions=True) if fault.cancel else []
        Path(folder, "open").touch()
        ends += await asyncio.gather(*running, return_exceptions=True)
        ends += [] if fault.cancel else await asyncio.gather(*queued, return_exceptions=True)
        later = [submitted(submit, mishaps.add, n, 1) for n in range(2)]
        ends += await asyncio.gather(*later, return_exceptions=True)
    lost = sum(isinstance(one, BaseException) for one in ends)
    if lost:
        return f"{lost} lost"
    if is_right(fault, end):
        return "alone"
    return "lethal" if isinstance(end, BaseException) else "silent"


async def sleep_on(contender: str, folder: str) -> None:
    """Have three calls sleep until the program is killed."""
    async with CONTENDERS[contender][1]() as submit:
        calls = []
        for number in range(3):
            calls.append(asyncio.ensure_future(submit(mishaps.gate, folder, f"gate{number}")))
            await exists(folder, f"gate{number}")
        Path(folder, "asleep").touch()
        await asyncio.sleep(600)


# --- the matrix -----------------------------------------------------------------------------


def members(session: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session and fields[0] not in {b"Z", b"X"}:
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def scene(contender: str, name: str, folder: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a scene in a session of its own; end what is left of it afterwards."""
    command = [sys.executable, "-m", "benchmarks.faults", "--scene", contender, name, folder]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in [process.pid, *members(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def outcome(contender: str, name: str, deadline: float) -> str:
    """The verdict on one scene."""
    with tempfile.TemporaryDirectory() as folder, scene(contender, name, folder) as process:
        if name == ORPHANS:
            return orphans(process, folder, deadline)
        verdict = Path(folder, "verdict")
        end = time.monotonic() + deadline
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if process.poll() is None:
            return "hangs"
        return verdict.read_text() if verdict.exists() else "stops"


def orphans(process: "subprocess.Popen[str]", folder: str, deadline: float) -> str:
    """Kill the program once its calls sleep, and count what is left of it."""
    end = time.monotonic() + deadline
    while not Path(folder, "asleep").exists():
        if process.poll() is not None or time.monotonic() > end:
            return "does not start"
        time.sleep(0.02)
    process.kill()
    process.wait()
    end = time.monotonic() + 3
    while (left := members(process.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    return f"{len(left)} left" if left else "alone"


def installed() -> list[str]:
    """The contenders that can be imported here."""
    found = []
    for name, (module, _) in CONTENDERS.items():
        with contextlib.suppress(ModuleNotFoundError):
            __import__(module)
            found.append(name)
    return found


def matrix(*, quick: bool) -> dict[str, dict[str, str]]:
    """The verdict on each fault by contender."""
    names = QUICK if quick else (*FAULTS, ORPHANS)
    contenders = installed()[:2] if quick else installed()
    deadline = 12.0
    return {c: {name: outcome(c, name, deadline) for name in names} for c in contenders}


def render(found: dict[str, dict[str, str]]) -> str:
    """The matrix as a plain table, faults down, contenders across."""
    width = max(len(name) for verdicts in found.values() for name in verdicts) + 2
    lines = ["faults: what one call that goes wrong does to the others"]
    lines.append(" " * width + "  ".join(f"{name:>19}" for name in found))
    for name in next(iter(found.values())):
        verdicts = "  ".join(f"{found[contender][name]:>19}" for contender in found)
        lines.append(f"{name:<{width}}{verdicts}")
    alone = "  ".join(
        f"{list(v.values()).count('alone')}/{len(v)}".rjust(19) for v in found.values()
    )
    return "\n".join([*lines, f"{'alone':<{width}}{alone}"])


def main() -> None:
    """Print the matrix, or play one scene."""
    parser = argparse.ArgumentParser(description="Play every fault on aiopool and its peers.")
    parser.add_argument("--quick", action="store_true", help="three faults, two contenders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the matrix there")
    parser.add_argument("--scene", nargs=3, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.scene:
        contender, name, folder = options.scene
        if name == ORPHANS:
            asyncio.run(sleep_on(contender, folder))
        else:
            Path(folder, "verdict").write_text(asyncio.run(play(contender, name, folder)))
        return
    found = matrix(quick=options.quick)
    print(render(found), flush=True)
    if options.json is not None:
        rounds = {contender: [verdicts] for contender, verdicts in found.items()}
        options.json.write_text(json.dumps([{"benchmark": "faults", "rounds": rounds}]) + "\n")


if __name__ == "__main__":
    main()
