"""For every test of this room: what asyncio would only have logged is a failure."""

import asyncio
import gc

import pytest
import pytest_asyncio

from tests.run.support import Shop


class Complaints(list):
    """What was told to the loop's exception handler; a test that expects some clears it."""

    def messages(self):
        return [str(context.get("message")) for context in self]


@pytest.fixture(scope="session", autouse=True)
def _cheap_collection():
    """Take what is there before the first test out of each test's own garbage collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _watch_complaints(request):
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("complaints")


@pytest.fixture
async def complaints():
    """Give the list of what the loop's exception handler was told."""
    found = Complaints()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    gc.collect()
    await asyncio.sleep(0)
    assert not found, list(found)


@pytest.fixture
async def shop():
    """Give a `Shop`, whose calls are let go at the end of the test."""
    shop = Shop()
    yield shop
    shop.open()
