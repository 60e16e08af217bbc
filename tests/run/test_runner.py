"""`aiopool.run`: an event loop for a whole program."""

import asyncio
import sys

import pytest

import aiopool
from tests import jobs


async def answer():
    """Use a pool and say what loop it ran on."""
    async with aiopool.Pool(1) as pool:
        value = await pool.run(jobs.inc, 41)
    return value, type(asyncio.get_running_loop()).__module__


def test_a_program_runs():
    """It returns what the coroutine returned, on uvloop where that is installed."""
    value, loop = aiopool.run(answer())
    assert value == 42
    assert loop.startswith("uvloop" if "uvloop" in sys.modules else "asyncio")


def test_without_uvloop(monkeypatch):
    """Without uvloop it is asyncio's own loop."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    value, loop = aiopool.run(answer())
    assert value == 42
    assert loop.startswith("asyncio")


def test_an_error_comes_out():
    """What the coroutine raises comes out as it is."""

    async def fail():
        raise LookupError(1)

    with pytest.raises(LookupError):
        aiopool.run(fail())


async def test_inside_a_loop():
    """It cannot be called where a loop runs already, and says what to do instead."""
    with pytest.raises(RuntimeError, match="await"):
        aiopool.run(answer())
