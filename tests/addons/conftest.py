"""What several tests of add-ons start from."""

import pytest

import aiopool


@pytest.fixture
async def pool():
    async with aiopool.Pool(2) as pool:
        yield pool
