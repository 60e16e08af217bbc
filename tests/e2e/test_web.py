"""The pool behind real sockets: uvicorn in this loop, clients that ask, leave and misbehave."""

import asyncio
import contextlib
import json
import os
import sys
import types

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from aiopool import PoolFull
from aiopool.asgi import Lifespan, PoolMiddleware, get_pool
from tests import jobs
from tests.e2e.servers import Talk, load_example, serving
from tests.helpers import ROOT, wait_until

# What has little to do with the kind of the event loop; starting and stopping a server takes time.
on_one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])

# --- the example ----------------------------------------------------------------------------

TEXT = b"word other word\n" * 50


@contextlib.asynccontextmanager
async def example(monkeypatch):
    """Serve the example and give a client of it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "docs" / "examples"))
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    async with (
        serving(load_example().app) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as client,
    ):
        yield site, client


async def test_the_example_answers(monkeypatch):
    """Each endpoint gives what it is for, and turns away what it cannot take."""
    async with example(monkeypatch) as (site, client):
        assert (await client.get("/health")).text == "ok\n"
        assert (await client.post("/words", content=TEXT)).json() == [["word", 100], ["other", 50]]
        rows = (await client.post("/factors", content=b"12\nodd\n97")).text.splitlines()
        assert [json.loads(row).get("factors") for row in rows] == [[2, 2, 3], None, [97]]
        large = await client.post("/words", content=bytes(load_example().BIGGEST + 1))
        assert large.status_code == 413
        assert (await client.post("/thumbnail", content=b"no picture")).status_code in {422, 501}
        assert (await client.get("/words")).status_code == 405
        statistics = (await client.get("/statistics")).json()
        assert statistics["crashed"] == 0 and statistics["workers"]
        assert await counted(site, "400") == (1, 78)
        for odd in ("many", "-1", "1" * 5000):
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await counted(site, odd)
            assert closed.value.rcvd.code == 1008


async def counted(site, text):
    """What the example says last of all when asked to count."""
    async with websockets.connect(f"ws://127.0.0.1:{site.port}/count", proxy=None) as socket:
        await socket.send(text)
        last = json.loads(await socket.recv())
        async for message in socket:
            now = json.loads(message)
            assert now["done"] > last["done"]
            last = now
        return last["done"], last["primes"]


@on_one_loop
async def test_the_example_makes_thumbnails(monkeypatch, tmp_path):
    """A picture comes back small enough for its square, and as a JPEG."""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (1000, 500), "red").save(tmp_path / "large.png")
    async with example(monkeypatch) as (_, client):
        content = (tmp_path / "large.png").read_bytes()
        small = await client.post("/thumbnail", content=content)
        assert small.headers["content-type"] == "image/jpeg"
        (tmp_path / "small.jpg").write_bytes(small.content)
        with image.open(tmp_path / "small.jpg") as picture:
            assert (picture.format, picture.size) == ("JPEG", (256, 128))


# --- clients that leave ---------------------------------------------------------------------


def site_of(pool_options, *routes, middleware=(), **options):
    return Starlette(
        routes=list(routes),
        lifespan=Lifespan(**pool_options, **options),
        middleware=[*middleware, Middleware(PoolMiddleware)],
    )


async def pass_on(request, call_next):
    return await call_next(request)


BASE = Middleware(BaseHTTPMiddleware, dispatch=pass_on)


class Desk:
    """Endpoints whose work waits at a gate, and who saw it end."""

    def __init__(self, gate, cleanup):
        self.gate = gate
        self.cleanup = cleanup
        self.pool = None
        self.went_on = asyncio.Event()

    @property
    def job(self):
        return jobs.gate_with_cleanup, *self.gate.paths, str(self.cleanup)

    async def plain(self, request):
        self.pool = await get_pool(request)
        await self.pool.run(*self.job)
        return PlainTextResponse("done")

    async def streaming(self, request):
        self.pool = pool = await get_pool(request)

        async def rows():
            yield "begun\n"
            async with pool.stream(
                jobs.gate_with_cleanup, *[[one] for one in self.job[1:]]
            ) as all_:
                async for _ in all_:
                    yield "done\n"

        return StreamingResponse(rows())

    async def talking(self, websocket):
        self.pool = await get_pool(websocket)
        await websocket.accept()
        await self.pool.run(*self.job)

    async def background(self, request):
        self.pool = await get_pool(request)

        async def work():
            await self.pool.run(*self.job)
            self.went_on.set()

        return PlainTextResponse("done", background=BackgroundTask(work))

    def app(self, **options):
        return site_of(
            {"max_workers": 1},
            Route("/plain", self.plain, methods=["GET", "POST"]),
            Route("/streaming", self.streaming),
            Route("/background", self.background),
            WebSocketRoute("/talking", self.talking),
            **options,
        )


@pytest.mark.parametrize(
    ("path", "body", "around"),
    [
        ("/plain", b"", []),
        ("/plain", b"some", []),
        ("/plain", b"", [BASE]),
        ("/streaming", b"", []),
    ],
)
async def test_a_request_that_is_left_stops(path, body, around, gate, tmp_path):
    """Work of a client that leaves is interrupted, its worker kept, the next client served."""
    desk = Desk(gate, tmp_path / "cleanup")
    async with serving(desk.app(middleware=around)) as site:
        talk = await Talk.to(site.port)
        talk.ask(path, body)
        pid = await gate.entered()
        await talk.leave()
        await wait_until(lambda: not desk.pool.statistics().running)
        assert desk.cleanup.exists()
        assert await desk.pool.run(jobs.pid) == pid
    assert not gate.release.exists()


async def test_a_websocket_that_is_left_stops(gate, tmp_path):
    """Work of a websocket's client that leaves is interrupted."""
    desk = Desk(gate, tmp_path / "cleanup")
    async with serving(desk.app()) as site:
        address = f"ws://127.0.0.1:{site.port}/talking"
        async with websockets.connect(address, proxy=None) as socket:
            await socket.send("not read by anybody")
            await gate.entered()
        await wait_until(lambda: not desk.pool.statistics().running)
        assert desk.cleanup.exists()


async def test_waiting_calls_of_clients_that_leave_vanish(gate, tmp_path):
    """A call that waits for a worker is taken from the queue when its client leaves."""
    desk = Desk(gate, tmp_path / "cleanup")
    async with serving(desk.app()) as site:
        talks = [await Talk.to(site.port) for _ in range(5)]
        for talk in talks:
            talk.ask("/plain")
        await gate.entered()
        await wait_until(lambda: sum(desk.pool.statistics().queued.values()) == 4)
        waiting = [talk for talk in talks if talk is not talks[0]]
        for talk in waiting[1:]:
            await talk.leave()
        await wait_until(lambda: sum(desk.pool.statistics().queued.values()) <= 1)
        gate.open()
        assert await talks[0].answer() == (200, b"done")
        assert await waiting[0].answer() == (200, b"done")
        assert desk.pool.statistics().cancelled == 3
        for talk in (talks[0], waiting[0]):
            await talk.leave()


@on_one_loop
async def test_background_work_goes_on(gate, tmp_path):
    """What an endpoint leaves to the background goes on when the client has its answer."""
    desk = Desk(gate, tmp_path / "cleanup")
    async with serving(desk.app()) as site:
        talk = await Talk.to(site.port)
        assert await talk.get("/background") == (200, b"done")
        await gate.entered()
        await talk.leave()
        assert not desk.went_on.is_set()
        gate.open()
        await asyncio.wait_for(desk.went_on.wait(), 20)


# --- overload, timeouts, stopping -----------------------------------------------------------


async def test_overload_timeouts_and_stopping_have_answers(gate, tmp_path):
    """Beyond max_pending 503, after a timeout 504, and 503 while the pool closes, work finished."""

    async def late(request):
        pool = await get_pool(request)
        return PlainTextResponse(str(await pool.run(jobs.sleep_for, 60, timeout=0.05)))

    desk = Desk(gate, tmp_path / "cleanup")
    routes = [Route("/plain", desk.plain), Route("/late", late)]
    async with (
        serving(site_of({"max_workers": 1, "max_pending": 1}, *routes)) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as client,
    ):
        assert (await client.get("/late")).status_code == 504
        first = asyncio.ensure_future(client.get("/plain"))
        await gate.entered()
        second = asyncio.ensure_future(client.get("/plain"))
        await wait_until(lambda: desk.pool.statistics().queued)
        refused = await client.get("/plain")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        closing = asyncio.ensure_future(desk.pool.aclose())
        await asyncio.sleep(0)
        assert (await client.get("/plain")).status_code == 503
        gate.open()
        assert [(await each).status_code for each in (first, second)] == [200, 200]
        await closing
        assert (await client.get("/plain")).status_code == 503


@on_one_loop
async def test_a_mounted_application_with_the_middleware_is_answered():
    """Errors within a mounted application that has the middleware too are answered 504 and 503."""

    async def late(request):
        pool = await get_pool(request)
        await pool.run(jobs.sleep_for, 60, timeout=0.05)

    async def full(request):
        raise PoolFull(1)

    routes = [Route("/late", late), Route("/full", full)]
    inner = Starlette(routes=routes, middleware=[Middleware(PoolMiddleware)])
    async with (
        serving(site_of({"max_workers": 1}, Mount("/inner", inner))) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as client,
    ):
        assert (await client.get("/inner/late")).status_code == 504
        assert (await client.get("/inner/full")).status_code == 503


@on_one_loop
async def test_middleware_around_is_not_disturbed_by_who_leaves(gate, tmp_path):
    """A client that leaves causes no error in middleware that insists on a response."""
    ends = []

    async def insist(request, call_next):
        ends.append("error")
        response = await call_next(request)
        ends[-1] = response.status_code
        return response

    desk = Desk(gate, tmp_path / "cleanup")
    around = [Middleware(BaseHTTPMiddleware, dispatch=insist)]
    async with serving(desk.app(middleware=around)) as site:
        talk = await Talk.to(site.port)
        talk.ask("/plain")
        await gate.entered()
        await talk.leave()
        await wait_until(lambda: not desk.pool.statistics().running)
        await wait_until(lambda: not site.server.server_state.tasks)
    assert ends == [499]


# --- bad input ------------------------------------------------------------------------------


def unimportable():
    """Give a function that the parent pickles by reference and no worker finds."""

    def found_nowhere():
        return None

    module = types.ModuleType("only_here")
    module.found_nowhere = found_nowhere
    found_nowhere.__module__, found_nowhere.__qualname__ = "only_here", "found_nowhere"
    return module


BAD = {
    "raises": lambda pool: pool.run(jobs.fail, "odd"),
    "raises SystemExit": lambda pool: pool.run(sys.exit, 3),
    "does not pickle": lambda pool: pool.run(jobs.echo, asyncio.get_running_loop()),
    "cannot be imported": lambda pool: pool.run(sys.modules["only_here"].found_nowhere),
    "dies": lambda pool: pool.run(os._exit, 3),
}


async def test_what_goes_wrong_in_a_handler_costs_its_request(monkeypatch):
    """Whatever a handler does wrong is answered 500, and the service and its worker go on."""
    monkeypatch.setitem(sys.modules, "only_here", unimportable())

    async def bad(request):
        await BAD[request.query_params["how"]](await get_pool(request))

    async def good(request):
        return PlainTextResponse(str(await (await get_pool(request)).run(jobs.inc, 1)))

    async with (
        serving(site_of({"max_workers": 1}, Route("/bad", bad), Route("/good", good))) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as client,
    ):
        for how in BAD:
            assert (await client.get("/bad", params={"how": how})).status_code == 500, how
            assert (await client.get("/good")).text == "2"


@on_one_loop
async def test_a_pool_whose_workers_do_not_start():
    """Where no worker gets ready, requests that need one fail and the others are answered."""

    async def needs(request):
        return PlainTextResponse(str(await (await get_pool(request)).run(jobs.inc, 1)))

    async def needs_not(request):
        return PlainTextResponse("here")

    options = {"max_workers": 1, "initializer": jobs.fail, "initargs": ("odd",)}
    routes = [Route("/needs", needs), Route("/needs_not", needs_not)]
    async with (
        serving(site_of(options, *routes)) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as client,
    ):
        for _ in range(2):
            assert (await client.get("/needs")).status_code == 500
            assert (await client.get("/needs_not")).text == "here"


@on_one_loop
@pytest.mark.parametrize("lifespan", ["off", "auto"])
async def test_a_service_without_its_pool(lifespan):
    """A server that runs no lifespan, or an application without one, answers 503."""

    async def needs(request):
        await get_pool(request)

    app = Starlette(routes=[Route("/needs", needs)], middleware=[Middleware(PoolMiddleware)])
    async with (
        serving(app, lifespan=lifespan) as site,
        httpx.AsyncClient(base_url=site.url) as client,
    ):
        assert (await client.get("/needs")).status_code == 503


# --- FastAPI --------------------------------------------------------------------------------


async def test_fastapi():
    """get_pool is a dependency of FastAPI for requests and websockets; its errors are answered."""
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI(lifespan=Lifespan(max_workers=1))
    app.add_middleware(PoolMiddleware)
    the_pool = fastapi.Depends(get_pool)

    @app.post("/inc")
    async def inc(number: int, pool=the_pool):
        return await pool.run(jobs.inc, number)

    @app.get("/late")
    async def late(pool=the_pool):
        await pool.run(jobs.sleep_for, 60, timeout=0.05)

    @app.websocket("/talk")
    async def talk(websocket: fastapi.WebSocket, pool=the_pool):
        await websocket.accept()
        await websocket.send_json(await pool.run(jobs.inc, await websocket.receive_json()))

    async with (
        serving(app) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as client,
        websockets.connect(f"ws://127.0.0.1:{site.port}/talk", proxy=None) as socket,
    ):
        assert (await client.post("/inc", params={"number": 1})).json() == 2
        assert (await client.get("/late")).status_code == 504
        await socket.send("7")
        assert json.loads(await socket.recv()) == 8
