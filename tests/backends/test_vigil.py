"""How long the event loop is kept awake for an answer."""

import asyncio

import pytest

from aiopool._backends import vigil
from aiopool._backends.vigil import Vigil


class Clock:
    """A clock that moves a little whenever it is looked at, which a vigil does at each turn."""

    def __init__(self):
        self.now = 100.0
        self.looks = 0

    def __call__(self):
        self.looks += 1
        self.now += 10e-6
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(vigil, "monotonic", clock)
    return clock


async def turn_often():
    for _ in range(40):
        await asyncio.sleep(0)


async def test_a_vigil_turns_the_loop_for_a_while(clock):
    """The loop goes on turning until its time is up."""
    Vigil().begin(clock.now)
    await turn_often()
    assert 14 <= clock.looks <= 16


async def test_a_vigil_begun_again_is_one_vigil(clock):
    """Another call prolongs the vigil and does not double it."""
    watch = Vigil()
    watch.begin(clock.now)
    await asyncio.sleep(0)
    watch.begin(clock.now)
    await turn_often()
    assert 15 <= clock.looks <= 17


async def test_an_answer_ends_a_vigil(clock):
    """With the answer there the loop may sleep, and the next call begins another vigil."""
    watch = Vigil()
    for _ in range(3):
        looks = clock.looks
        watch.begin(clock.now)
        await asyncio.sleep(0)
        watch.end()
        await turn_often()
        assert 1 <= clock.looks - looks <= 2


async def test_vigils_in_vain_are_left_out(clock):
    """After a vigil without an answer sixteen calls are not waited for, the next one is."""
    watch = Vigil()
    watch.begin(clock.now)
    await turn_often()
    looks = clock.looks
    for _ in range(16):
        watch.begin(clock.now)
        await asyncio.sleep(0)
    assert clock.looks == looks
    watch.begin(clock.now)
    await turn_often()
    assert clock.looks > looks
