"""What several tests of add-ons start from."""

from pathlib import Path

import pytest

import aiopool
from tests.helpers import block_until


@pytest.fixture
async def pool():
    async with aiopool.Pool(2) as pool:
        yield pool


@pytest.fixture
def watches_end():
    """Wait for the threads of watches that have ended.

    Each closes what it had open, and may be held up by the kernel, which closes a watch only when
    all who are just being notified of anything have been; that has taken seconds.
    """
    yield
    block_until(lambda: not any(map(is_of_a_watch, Path("/proc/self/task").iterdir())), patience=60)


def is_of_a_watch(thread):
    try:
        return (thread / "comm").read_text().startswith("notify-rs")
    except OSError:  # it has just ended
        return False
