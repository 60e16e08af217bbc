"""A web service under load whose workers are killed at random: each request has one answer."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import aiopool
from aiopool.asgi import Lifespan, PoolMiddleware, get_pool
from tests import jobs
from tests.e2e.servers import Talk, serving
from tests.helpers import is_alive

CLIENTS = 20
REQUESTS = 30
"""What each client asks for, one after the other."""

KILLS = 8
SEED = int(os.environ.get("AIOPOOL_WEB_SEED", "1"))
RETRY = aiopool.Retry(2, on=aiopool.WorkerCrashed, wait_initial=0.001)


def square_slowly(number):
    jobs.spin(0.002)
    return number * number


class Service:
    """What is asked for, and how often it was begun and ended."""

    def __init__(self):
        self.begun = self.ended = 0
        self.pool = None

    async def square(self, request):
        self.begun += 1
        try:
            self.pool = await get_pool(request)
            return PlainTextResponse(str(await self.pool.run(square_slowly, self.number(request))))
        finally:
            self.ended += 1

    async def squares(self, request):
        self.begun += 1
        try:
            pool = await get_pool(request)
            values = await pool.map(jobs.square, range(self.number(request)), retry=RETRY)
            return PlainTextResponse(str(sum(values)))
        finally:
            self.ended += 1

    async def trivial(self, request):
        self.begun += 1
        self.ended += 1
        return PlainTextResponse(str(self.number(request)))

    @staticmethod
    def number(request):
        return request.path_params["number"]

    def app(self):
        ways = {"square": self.square, "squares": self.squares, "trivial": self.trivial}
        return Starlette(
            routes=[Route(f"/{name}/{{number:int}}", way) for name, way in ways.items()],
            lifespan=Lifespan(max_workers=2, max_pending=16),
            middleware=[Middleware(PoolMiddleware)],
        )


EXPECTED = {
    "square": lambda number: number * number,
    "squares": lambda number: sum(n * n for n in range(number)),
    "trivial": lambda number: number,
}


async def client(port, dice, answers):
    """Ask for this and that, and check every answer that is a value."""
    talk = await Talk.to(port)
    for _ in range(REQUESTS):
        way, number = dice.choice(list(EXPECTED)), dice.randrange(200)
        status, body = await talk.get(f"/{way}/{number}")
        answers[way, status] += 1
        if status == 200:
            assert int(body) == EXPECTED[way](number)
        if status == 500:  # after which the server closes the connection
            await talk.leave()
            talk = await Talk.to(port)
    await talk.leave()


async def impatient(port, dice):
    """Ask for work, and leave before it is done."""
    while True:
        talk = await Talk.to(port)
        talk.ask("/square/7")
        try:
            await asyncio.sleep(dice.uniform(0, 0.01))
        finally:
            talk.writer.close()


async def killer(service, dice, seen):
    """Kill a worker every now and then, of those that work: who dies as it starts is not missed."""
    killed = 0
    while killed < KILLS:
        await asyncio.sleep(dice.uniform(0.02, 0.1))
        workers = service.pool.statistics().workers if service.pool is not None else ()
        pids = [worker.pid for worker in workers if worker.state in {"ready", "busy"}]
        seen.update(pids)
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(pids), signal.SIGKILL)
            killed += 1


async def test_every_request_has_one_answer():
    """Under load and amid kills and clients that leave each request has an answer, none a wrong."""
    dice, service = random.Random(SEED), Service()
    answers, seen = Counter(), set()
    async with serving(service.app()) as site:
        disturbers = [
            asyncio.ensure_future(killer(service, dice, seen)),
            *[asyncio.ensure_future(impatient(site.port, dice)) for _ in range(2)],
        ]
        try:
            clients = [client(site.port, dice, answers) for _ in range(CLIENTS)]
            await asyncio.wait_for(asyncio.gather(*clients), 60)
        finally:
            for task in disturbers:
                task.cancel()
            await asyncio.wait(disturbers)
    assert answers.total() == CLIENTS * REQUESTS
    assert {status for _, status in answers} <= {200, 500, 503}
    assert {status for way, status in answers if way == "trivial"} == {200}
    assert answers["square", 200] and answers["squares", 200]
    assert service.begun == service.ended
    assert seen and not any(map(is_alive, seen))
