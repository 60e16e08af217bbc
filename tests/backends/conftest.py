"""Start methods for the tests that end workers, and innocents to watch while they end."""

import asyncio
from dataclasses import dataclass, field

import pytest

from tests import jobs


@pytest.fixture(params=["forkserver", "spawn"])
def start_method(request):
    return request.param


@dataclass
class Company:
    """Innocent calls around a guilty one: two that run, three queued, two that come later.

    `gather_round` starts the first five on a pool of three workers; the third worker is for the
    guilty call. `leave_well` lets them go on and checks what each of them gives.
    """

    pool: object
    gates: list
    running: list = field(default_factory=list)
    queued: list = field(default_factory=list)

    async def gather_round(self):
        self.running = [self.pool.submit(jobs.gate, *gate.paths) for gate in self.gates]
        for gate in self.gates:
            await gate.entered()

    def queue_up(self):
        self.queued = [self.pool.submit(jobs.add, n, n) for n in range(3)]

    async def leave_well(self):
        pids = [gate.pid for gate in self.gates]
        for gate in self.gates:
            gate.open()
        assert await asyncio.gather(*self.running) == pids
        assert await asyncio.gather(*self.queued) == [0, 2, 4]
        assert await asyncio.gather(*[self.pool.run(jobs.inc, n) for n in (7, 8)]) == [8, 9]
        assert {handle.attempts for handle in (*self.running, *self.queued)} == {1}


@pytest.fixture
def company(make_gate):
    """Give a function that surrounds what happens in a pool of three with innocents."""

    def surround(pool):
        return Company(pool, [make_gate(), make_gate()])

    return surround
