"""A folder as a queue: drop ``3.task`` with ``say hello;0.5`` in it, and it is done.

    python docs/examples/tasku.py inbox           watches the folder until Ctrl-C
    python docs/examples/tasku.py                 shows it with tasks in a folder of its own

A task file holds a message and for how many seconds to work on it. Lower names come first; each
task runs in a process of its own; the file becomes ``3.task.done``, or ``3.task.failed`` with the
reason in ``3.task.error``. Files may be dropped, and watchers started and killed, at any time.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import aiopool
from aiopool.events import FileDone, FileEvent, FileFailed, FileStarted
from aiopool.spool import Spool, SpoolStatistics

TASKS = {
    "10.task": "the least important;0.1",
    "1.task": "the most important;0.2",
    "2.task": "as it happens;0.1",
    "3.task": "there is no such number;soon",
    "4.task": "not a task",
    "5.task": "the last but one;0.1",
}


def execute(path: Path) -> None:
    """Do what a task file says; raises ValueError if it says nothing sensible."""
    message, separator, seconds = path.read_text().strip().rpartition(";")
    if not separator:
        raise ValueError("is not of the form message;seconds")
    print(f"{path.name}: {message} (pid {os.getpid()})")
    time.sleep(float(seconds))


class Board:
    """Shows what happens in a folder, and how many tasks run, are executed, and failed."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.spool = Spool(folder, execute, limit=workers, observers=[self.show])

    def show(self, event: FileEvent) -> None:
        """Print one line."""
        now = self.spool.statistics()
        match event:
            case FileStarted(pid=pid):
                what = f"started, pid {pid}"
            case FileDone(seconds=seconds):
                what = f"done after {seconds:.1f} s"
            case FileFailed(error=error):
                what = f"failed: {error}"
            case _:
                what = "waits again"
        counts = f"running {len(now.running)}, executed {now.executed}, errors {now.failed}"
        print(f"[{counts}] {event.name} {what}")

    async def run(self, workers: int, *, once: bool) -> SpoolStatistics:
        """Work through the folder, each task in a new process; ``once``: until it is empty."""
        async with aiopool.Pool(workers, max_tasks_per_worker=1) as pool:
            return await self.spool.run(pool, once=once)


def fill(folder: Path) -> None:
    """Drop the tasks of the show."""
    for name, text in TASKS.items():
        (folder / name).write_text(text)


def demonstrate(workers: int) -> None:
    """Fill a folder, work it off, and print what is in it then."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder)
        aiopool.run(Board(folder, workers).run(workers, once=True))
        print("in the folder now:", *sorted(path.name for path in folder.iterdir()))


def main() -> None:
    """Read the command line, and watch a folder or show one."""
    parser = argparse.ArgumentParser(description="A folder as a queue.")
    parser.add_argument("folder", type=Path, nargs="?", help="to watch (a show in a new one)")
    parser.add_argument("--workers", type=int, default=2, help="tasks at the same time (2)")
    parser.add_argument("--once", action="store_true", help="end when the folder is empty")
    options = parser.parse_args()
    if options.folder is None:
        demonstrate(options.workers)
    else:
        board = Board(options.folder, options.workers)
        aiopool.run(board.run(options.workers, once=options.once))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
