"""What the tests of the spool call, and how they give it something to do."""

import asyncio
import contextlib
import json

from tests import jobs
from tests.helpers import block_until


def perform(path):
    """Do what the file says: the name of a job and its arguments."""
    name, *args = json.loads(path.read_text())
    return getattr(jobs, name)(*args)


def drop(folder, name, *call):
    """Put a file into the folder in one step, written elsewhere."""
    jobs.write_whole(folder / name, json.dumps(call))
    return folder / name


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextlib.asynccontextmanager
async def running(spool, pool):
    """Have the spool run while the block does; cancel it then."""
    task = asyncio.create_task(spool.run(pool))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def wait_for(path):
    return block_until(path.exists, f"{path.name} is there")
