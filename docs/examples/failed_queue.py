"""Work off more jobs than there are workers; what fails waits in a failed queue and comes again.

    python docs/examples/failed_queue.py --jobs 24 --workers 4 --attempts 3

A job that failed holds no worker while it waits for its next attempt, and the others go on; the
report has the errors of all attempts. Here every third job fails at first, one kills its own worker
once, and one never succeeds.
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import aiopool
from aiopool.events import Event, TaskFailed, TaskRetrying


class Job(NamedTuple):
    """Something to do: how often it fails first, and whether it takes its worker along."""

    name: str
    fails: int = 0
    kills: bool = False


def perform(shelf: Path, job: Job) -> str:
    """Do a job, in a worker process; one byte on the shelf for each attempt."""
    with (shelf / job.name).open("a") as file:
        file.write("x")
        attempt = file.tell()
    time.sleep(0.05)
    if attempt <= job.fails:
        if job.kills:
            os._exit(1)
        raise ConnectionError(f"no answer to call {attempt}")
    return f"{job.name} answered call {attempt}"


@dataclass(frozen=True)
class FailedQueue:
    """What the pool tells of failed attempts: all errors of each job, in order."""

    jobs: Sequence[Job]
    errors: defaultdict[int, list[BaseException]] = field(default_factory=lambda: defaultdict(list))

    def told(self, event: Event) -> None:
        """Note an attempt that failed."""
        if isinstance(event, (TaskRetrying, TaskFailed)):
            self.errors[event.index].append(event.error)
            fate = "given up"
            if isinstance(event, TaskRetrying):
                fate = f"again in {event.delay:.2f} s"
            print(f"{self.jobs[event.index].name} failed, attempt {event.attempt}: {fate}")


async def work_off(
    jobs: Sequence[Job], shelf: Path, *, workers: int, attempts: int
) -> tuple[list[aiopool.Outcome[str]], FailedQueue]:
    """Do all jobs; how each ended, in their order, and what went wrong on the way."""
    failed = FailedQueue(jobs)
    policy = aiopool.Retry(attempts, wait_initial=0.05, wait_max=0.2, wait_jitter=0)
    async with aiopool.Pool(workers, retry=policy, observers=[failed.told]) as pool:
        results = pool.stream(partial(perform, shelf), jobs)
        return [outcome async for outcome in results.outcomes()], failed


def some_jobs(count: int) -> list[Job]:
    """Every third fails once, the last but one kills its worker once, the last always fails."""
    jobs = [Job(f"job-{n:02}", fails=int(n % 3 == 2)) for n in range(count - 2)]
    return [*jobs, Job("killer", fails=1, kills=True), Job("hopeless", fails=10**6)]


def main() -> None:
    """Read the command line, work off the jobs and report."""
    parser = argparse.ArgumentParser(description="Jobs, workers, and a failed queue.")
    parser.add_argument("--jobs", type=int, default=12, help="how many, at least 2 (12)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--attempts", type=int, default=3, help="for each job (3)")
    options = parser.parse_args()
    jobs = some_jobs(options.jobs)
    with TemporaryDirectory() as shelf:
        work = work_off(jobs, Path(shelf), workers=options.workers, attempts=options.attempts)
        outcomes, failed = aiopool.run(work)
    print(f"\n{'job':10}{'state':8}{'attempts':>8}  errors on the way")
    for job, outcome in zip(jobs, outcomes, strict=True):
        errors = "; ".join(f"{type(e).__name__}: {e}" for e in failed.errors[outcome.index])
        state = "done" if outcome.ok else "failed"
        print(f"{job.name:10}{state:8}{outcome.attempts:8}  {errors}")
    done = sum(outcome.ok for outcome in outcomes)
    print(f"{done} of {len(jobs)} jobs done in {sum(o.attempts for o in outcomes)} attempts")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
