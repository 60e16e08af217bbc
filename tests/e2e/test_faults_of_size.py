"""The catalogue of faults, row B17: more than a 32-bit length can tell."""

import os

import pytest

import aiopool
from tests import jobs

SIZE = 2_200_000_000


@pytest.mark.skipif(
    "AIOPOOL_HIGH_MEMORY" not in os.environ, reason="needs 12 GB: set AIOPOOL_HIGH_MEMORY=1"
)
async def test_b17_more_than_two_gibibytes():
    """An argument and a result of more than 2 GiB arrive whole."""
    async with aiopool.Pool(1) as pool:
        assert await pool.run(jobs.length, bytes(SIZE)) == SIZE
        assert len(await pool.run(jobs.make_bytes, SIZE)) == SIZE
        assert await pool.run(jobs.inc, 1) == 2
