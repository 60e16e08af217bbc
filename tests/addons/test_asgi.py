"""The ASGI add-on against a scripted server: who is cancelled, who is told, what is answered."""

import asyncio
import contextlib
import inspect
import os
import signal

import anyio
import pytest
from starlette.requests import HTTPConnection, Request

import aiopool
from aiopool import Pool, PoolClosed, PoolFull, TaskTimeout
from aiopool.asgi import Lifespan, PoolMiddleware, get_pool, give_way
from tests import jobs
from tests.helpers import PATIENCE, run_python, wait_until

REQUEST = {"type": "http.request", "body": b"", "more_body": False}
LEFT = {"type": "http.disconnect"}
START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"done"}


def chunk(text, *, more=True):
    return {"type": "http.request", "body": text, "more_body": more}


class Client:
    """A server's side of one scope: `says` is what the client sends, `sent` what it was told."""

    def __init__(self, kind="http", *, headers=(), extensions=(), pool=None):
        self.scope = {
            "type": kind,
            "path": "/",
            "headers": list(headers),
            "extensions": {name: {} for name in extensions},
            "state": {} if pool is None else {"aiopool": pool},
        }
        self.says = asyncio.Queue()
        self.asked = 0
        self.sent = []

    def say(self, *messages):
        for message in messages:
            self.says.put_nowait(message)

    async def receive(self):
        self.asked += 1
        return await self.says.get()

    async def send(self, message):
        self.sent.append(message)

    async def served(self, app, **options):
        """Have the scope served through the middleware; give what was sent."""
        async with asyncio.timeout(PATIENCE):
            await PoolMiddleware(app, **options)(self.scope, self.receive, self.send)
        return self.sent

    @contextlib.asynccontextmanager
    async def serving(self, app):
        task = asyncio.ensure_future(self.served(app))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


class Fake:
    """A pool for tests in which nothing is sent to it."""

    def admit(self):
        pass


def client(*args, **options):
    return Client(*args, pool=Fake(), **options)


class Waiting:
    """An application that asks for the pool and waits, and notes how that ended."""

    def __init__(self):
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.end = None

    async def __call__(self, scope, receive, send):
        await get_pool(scope)
        self.began.set()
        try:
            await self.go_on.wait()
            self.end = "went on"
        except asyncio.CancelledError:
            self.end = "cancelled"
            raise


# --- errors ---------------------------------------------------------------------------------

ERRORS = {
    "full": (PoolFull(3), 503, 1013),
    "closed": (PoolClosed("closing"), 503, 1012),
    "late": (TaskTimeout("work", 1.0), 504, 1011),
    "a group of one": (ExceptionGroup("", [ExceptionGroup("", [PoolFull(3)])]), 503, 1013),
}
each_error = pytest.mark.parametrize(("error", "status", "code"), ERRORS.values(), ids=ERRORS)


def raising(error, *messages):
    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        raise error

    return app


@each_error
async def test_errors_become_answers(error, status, code):
    """PoolFull and PoolClosed are answered 503 with Retry-After, TaskTimeout 504."""
    start, body = await Client().served(raising(error), retry_after=7)
    assert (start["type"], start["status"]) == ("http.response.start", status)
    assert dict(start["headers"]).get(b"retry-after") == (b"7" if status == 503 else None)
    assert body["body"]


@each_error
async def test_a_started_response_is_not_answered_again(error, status, code):
    """An error that comes when the response has started is raised to the server."""
    client = Client()
    with pytest.raises(type(error)):
        await client.served(raising(error, START))
    assert client.sent == [START]


@pytest.mark.parametrize(
    "error", [ValueError("odd"), TimeoutError(), ExceptionGroup("", [PoolFull(1), ValueError()])]
)
async def test_other_errors_are_raised(error):
    """What is no error of the pool alone is left to the application and the server."""
    client = Client()
    with pytest.raises(type(error)) as caught:
        await client.served(raising(error))
    assert caught.value is error
    assert client.sent == []


@each_error
async def test_a_websocket_is_closed_with_a_code(error, status, code):
    """A websocket that was accepted, or cannot be denied in words, is closed with a code."""
    (close,) = await Client("websocket").served(raising(error))
    assert (close["type"], close["code"]) == ("websocket.close", code)
    accept = {"type": "websocket.accept"}
    extensions = ["websocket.http.response"]
    sent = await Client("websocket", extensions=extensions).served(raising(error, accept))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]


@each_error
async def test_a_websocket_is_denied_with_a_status(error, status, code):
    """A websocket that was not accepted is answered as a request is, where the server can."""
    client = Client("websocket", extensions=["websocket.http.response"])
    start, body = await client.served(raising(error))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert body["type"] == "websocket.http.response.body"


async def test_other_scopes_pass():
    """A scope that is neither a request nor a websocket reaches the application untouched."""
    seen = []

    async def app(*args):
        seen.append(args)

    args = ({"type": "lifespan"}, None, None)
    await PoolMiddleware(app)(*args)
    assert seen == [args]


# --- clients that leave ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "says",
    [[REQUEST], [], [chunk(b"unread", more=False)], [chunk(b"one"), chunk(b"two", more=False)]],
)
async def test_a_client_that_leaves_ends_its_request(says):
    """A request that waits is cancelled when its client leaves, its body read or not."""
    here, app = client(), Waiting()
    here.say(*says)
    async with here.serving(app) as served:
        await app.began.wait()
        here.say(LEFT)
        start, body = await served
    assert (start["status"], body["type"]) == (499, "http.response.body")
    assert app.end == "cancelled"


async def test_a_response_that_its_client_left_is_not_ended():
    """A response that had started when its client left is not started again, or ended."""
    here, waiting = client(), Waiting()

    async def app(scope, receive, send):
        await send(START)
        await waiting(scope, receive, send)

    async with here.serving(app) as served:
        await waiting.began.wait()
        here.say(LEFT)
        assert await served == [START]


async def test_a_server_that_sends_nothing_more():
    """A server that raises OSError for what is sent when the client has left is not bothered."""
    here, app = client(), Waiting()

    async def send(message):
        raise OSError("gone")

    here.say(LEFT)
    await PoolMiddleware(app)(here.scope, here.receive, send)
    assert app.end == "cancelled"


@pytest.mark.parametrize("turns", range(6))
async def test_who_stops_listening_as_the_client_leaves(turns):
    """A client that leaves as a reader is cancelled is told of there, or ends the request."""
    here = client()
    told = []

    async def app(scope, receive, send):
        await get_pool(scope)
        await asyncio.sleep(0)
        reading = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        here.say(LEFT)
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        if reading.cancelled():
            await asyncio.Event().wait()
        told.append(reading.result())

    sent = await here.served(app)
    assert told == [LEFT] or sent[0]["status"] == 499


@pytest.mark.parametrize("kind", ["text", "bytes"])
async def test_a_websocket_that_is_closed_ends_its_work(kind):
    """A websocket's application is cancelled when the client closes, unread messages or not."""
    here, app = client("websocket"), Waiting()
    here.say({"type": "websocket.connect"}, *[{"type": "websocket.receive", kind: "x"}] * 9)
    async with here.serving(app) as served:
        await app.began.wait()
        here.say({"type": "websocket.disconnect", "code": 1001})
        await served
    assert app.end == "cancelled"


async def test_without_the_pool_nothing_is_cancelled():
    """A request that did not ask for the pool is left alone, and the server is asked nothing."""
    here = client()
    here.say(LEFT)

    async def app(scope, receive, send):
        for _ in range(5):
            await asyncio.sleep(0)
        await send(START)
        await send(LAST)

    assert await here.served(app) == [START, LAST]
    assert here.asked == 0


async def test_who_listens_is_told():
    """An application that waits in receive is told that the client has left, each time it asks."""
    here = client()
    told = []

    async def app(scope, receive, send):
        await get_pool(scope)
        told.append(await receive())
        told.append(await receive())
        told.append(await receive())

    here.say(REQUEST, LEFT)
    await here.served(app)
    assert told == [REQUEST, LEFT, LEFT]


async def test_who_listened_already_is_told():
    """A task that was reading before the pool was asked for is told, and nothing is cancelled."""
    here, waiting = client(), Waiting()

    async def app(scope, receive, send):
        reading = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await get_pool(scope)
        here.say(LEFT, LEFT)  # servers repeat it
        assert await reading == LEFT
        for _ in range(5):
            await asyncio.sleep(0)
        waiting.go_on.set()
        await waiting(scope, receive, send)

    await here.served(app)
    assert waiting.end == "went on"


@pytest.mark.parametrize("turns", range(5))
async def test_a_client_that_leaves_as_its_request_ends(turns):
    """Whichever comes first, the end of a request and its client's leaving do not collide."""
    here = client()
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def app(scope, receive, send):
        await get_pool(scope)
        await asyncio.sleep(0)
        here.say(LEFT)
        for _ in range(turns):
            await asyncio.sleep(0)

    assert [message.get("status", 499) for message in await here.served(app)] in ([], [499, 499])
    await asyncio.sleep(0)
    assert complaints == []


async def test_nothing_is_lost_or_reordered():
    """What was read ahead of the application reaches it in order, and what comes later after it."""
    here = client()
    heard = []

    async def app(scope, receive, send):
        await get_pool(scope)
        for number in range(20):
            if number % 3 == 0:
                await asyncio.sleep(0.001)  # meanwhile messages are read ahead
            heard.append((await receive())["body"])

    async with here.serving(app) as served:
        for number in range(20):
            here.say(chunk(b"%d" % number))
            if number % 7 == 0:
                await asyncio.sleep(0.001)
        await served
    assert heard == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize(("size", "most"), [(0, 1025), (1 << 15, 3), (1 << 20, 2)])
async def test_reading_ahead_is_bounded(size, most):
    """However much a client sends, a bounded number of bytes is read ahead of the application."""
    here, app = client(), Waiting()
    here.say(*[chunk(bytes(size))] * 2000)
    async with here.serving(app):
        await app.began.wait()
        seen = -1
        while seen < here.asked:
            seen = here.asked
            await asyncio.sleep(0.01)
        assert 1 <= here.asked <= most
        app.go_on.set()


async def test_a_body_is_not_asked_for_before_the_application_does():
    """A client that expects to be asked for its body is not asked by the middleware."""
    here, app = client(headers=[(b"expect", b"100-continue")]), Waiting()
    async with here.serving(app):
        await app.began.wait()
        await asyncio.sleep(0.01)
        assert here.asked == 0
        app.go_on.set()


async def test_an_expected_body_is_listened_behind():
    """Once the application has read from a client that expects that, its leaving is heard."""
    here = client(headers=[(b"expect", b"100-continue")])
    waiting = Waiting()

    async def app(scope, receive, send):
        await get_pool(scope)
        assert await receive() == REQUEST
        await waiting(scope, receive, send)

    here.say(REQUEST)
    async with here.serving(app) as served:
        await waiting.began.wait()
        here.say(LEFT)
        await served
    assert waiting.end == "cancelled"


FILE = {"type": "http.response.pathsend", "path": "/file"}


@pytest.mark.parametrize(("again", "last"), [(False, LAST), (True, LAST), (False, FILE)])
async def test_what_follows_the_response_goes_on(again, last):
    """A background task outlives its client, also if it asks for the pool itself."""
    here, waiting = client(), Waiting()

    async def app(scope, receive, send):
        await get_pool(scope)
        await send(START)
        await send(last)
        here.say(LEFT)  # servers say so to everybody after the response
        if again:
            await get_pool(scope)
        await asyncio.sleep(0.001)
        waiting.go_on.set()
        await waiting({**scope, "aiopool": None}, receive, send)

    await here.served(app)
    assert waiting.end == "went on"


async def test_a_cancellation_from_outside_is_passed_on():
    """A request that the server cancels is cancelled, and counts as that to whoever asks."""
    here, app = client(), Waiting()
    async with here.serving(app) as served:
        await app.began.wait()
        served.cancel()
        await asyncio.wait([served])
        assert served.cancelled()
    assert app.end == "cancelled"


async def test_an_error_of_the_server_is_raised_where_the_application_reads():
    """What the server's receive raises ends a waiting request, and is raised to one that reads."""
    here = client()
    read = []

    async def receive():
        raise OSError("lost")

    async def app(scope, receive, send):
        await get_pool(scope)
        try:
            await asyncio.sleep(60)
        finally:
            with pytest.raises(OSError, match="lost"):
                await receive()
            read.append("lost")

    await PoolMiddleware(app)(here.scope, receive, here.send)
    assert read == ["lost"]


async def test_level_cancellation_of_what_is_around():
    """Under a cancelled scope of anyio, where every wait is cancelled again, a request ends."""
    here, app = client(), Waiting()
    with anyio.CancelScope() as scope:
        async with asyncio.TaskGroup() as group:
            group.create_task(app.began.wait()).add_done_callback(lambda _: scope.cancel())
            await here.served(app)
    assert scope.cancelled_caught
    assert app.end == "cancelled"


async def test_is_disconnected():
    """Starlette's question whether the client has left is answered at once, by yes and by no."""
    here = client()
    answers = []

    async def app(scope, receive, send):
        request = Request(scope, receive)
        await get_pool(request)
        await request.body()
        answers.append(await request.is_disconnected())
        here.say(LEFT)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        answers.append(await request.is_disconnected())

    here.say(REQUEST)
    await here.served(app)
    assert answers == [False, True]


# --- the pool of a request ------------------------------------------------------------------


async def test_a_pool_that_is_full_is_not_given(gate):
    """get_pool raises PoolFull while max_pending calls wait, and gives the pool otherwise."""
    async with Pool(1, max_pending=1) as pool:
        scope = {"type": "http", "state": {"aiopool": pool}}
        assert await get_pool(scope) is pool
        running = asyncio.ensure_future(pool.run(jobs.gate, *gate.paths))
        await gate.entered()
        waiting = asyncio.ensure_future(pool.run(jobs.inc, 1))
        await wait_until(lambda: pool.statistics().queued)
        with pytest.raises(PoolFull):
            await get_pool(scope)
        gate.open()
        await asyncio.gather(running, waiting)
        assert await get_pool(scope) is pool
    with pytest.raises(PoolClosed):
        await get_pool(scope)


async def test_a_pool_is_found_at_the_application():
    """Without the state of a lifespan the pool is found at the application."""
    app = type("App", (), {"state": type("State", (), {"aiopool": Fake()})})
    assert isinstance(await get_pool({"app": app}), Fake)


@pytest.mark.parametrize("scope", [{}, {"state": {}}, {"app": object()}])
async def test_without_a_lifespan_the_error_names_it(scope):
    """get_pool of an application without a pool says what is missing."""
    with pytest.raises(PoolClosed, match="Lifespan"):
        await get_pool(scope)


# --- the lifespan ---------------------------------------------------------------------------


class App:
    def __init__(self):
        self.state = type("State", (), {})()


async def test_an_inner_lifespan_finds_the_pool():
    """The application's own lifespan runs within the pool's, and its state stands beside it."""
    order = []

    @contextlib.asynccontextmanager
    async def own(app):
        order.append(await app.state.aiopool.run(jobs.inc, 1))
        yield {"database": "open"}
        order.append(await app.state.aiopool.run(jobs.inc, 2))

    app = App()
    async with Lifespan(own, max_workers=1)(app) as state:
        assert state == {"database": "open", "aiopool": app.state.aiopool}
        assert await get_pool({"state": state}) is app.state.aiopool
    assert order == [2, 3]
    with pytest.raises(PoolClosed):
        app.state.aiopool.admit()


async def test_stopping_is_bounded(gate):
    """What is left when stop_timeout is over is stopped."""
    async with Lifespan(max_workers=1, stop_timeout=0.05, grace_period=0.2)(None) as state:
        stuck = state["aiopool"].submit(jobs.gate, *gate.paths)
        await gate.entered()
    assert stuck.cancelled()


async def test_stopping_finishes_what_runs():
    """What ends within stop_timeout gives its result."""
    async with Lifespan(max_workers=1)(None) as state:
        handle = state["aiopool"].submit(jobs.inc, 1)
    assert handle.result() == 2


@pytest.fixture
def server_signals():
    """What the server hears of SIGTERM, for which it has a handler."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: heard.append(signum))
    yield heard
    signal.signal(signal.SIGTERM, before)


async def test_sigterm_is_kept_from_the_server_while_calls_run(gate, server_signals):
    """Newcomers are refused, who was admitted may go on, and then the server hears of it."""
    server = signal.getsignal(signal.SIGTERM)
    async with Lifespan(max_workers=1)(None) as state:
        pool = await get_pool({"state": state})
        running = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: not admits(pool))
        with pytest.raises(PoolClosed, match="finishes"):
            await get_pool({"state": state})
        follower = pool.submit(jobs.inc, 1)
        assert server_signals == []
        gate.open()
        await wait_until(lambda: server_signals)
        assert running.done()
        assert follower.done()
    assert server_signals == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is server


def admits(pool):
    try:
        pool.admit()
    except PoolClosed:
        return False
    return True


async def test_sigterm_twice(gate, server_signals):
    """The second SIGTERM reaches the server at once."""
    async with Lifespan(max_workers=1, stop_timeout=0, grace_period=0.2)(None) as state:
        state["aiopool"].submit(jobs.gate, *gate.paths)
        await gate.entered()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: server_signals)


async def test_sigterm_is_put_off_for_stop_timeout_at_most(gate, server_signals):
    """Calls that take too long do not keep the server from being told."""
    async with Lifespan(max_workers=1, stop_timeout=0.05, grace_period=0.2)(None) as state:
        stuck = state["aiopool"].submit(jobs.gate, *gate.paths)
        await gate.entered()
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: server_signals)
        assert not stuck.done()


async def test_a_default_sigterm_stays(monkeypatch):
    """Where nobody has a handler for SIGTERM none is installed."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    async with Lifespan(max_workers=1)(None):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_workers_give_way():
    """With `give_way` workers run only when nobody else wants their CPU."""

    def policy():
        return os.sched_getscheduler(0) if hasattr(os, "SCHED_IDLE") else os.nice(0)

    before = policy()
    async with Lifespan(max_workers=1, initializer=give_way)(None) as state:
        assert await state["aiopool"].run(policy) == getattr(os, "SCHED_IDLE", 19)
    assert policy() == before


@pytest.mark.parametrize(
    ("cpus", "environment", "given", "workers"),
    [
        (8, "", None, 8),
        (8, "2", None, 4),
        (2, "3", None, 1),
        (8, "2", {"server_processes": 8}, 1),
        (8, "2", {"max_workers": 3}, 3),
    ],
)
async def test_workers_are_divided(monkeypatch, cpus, environment, given, workers):
    """Each server process has its share of the CPUs, one worker at least."""
    monkeypatch.setattr(aiopool, "available_cpus", lambda: cpus)
    monkeypatch.setenv("WEB_CONCURRENCY", environment)
    async with Lifespan(**given or {})(None) as state:
        assert state["aiopool"]._settings.max_workers == workers


class Server:
    """The server's side of the lifespan protocol."""

    def __init__(self):
        self.scope = {"type": "lifespan", "state": {}}
        self.says = asyncio.Queue()
        self.sent = []
        self.say = self.says.put_nowait
        self.receive = self.says.get

    async def send(self, message):
        self.sent.append(message["type"])


async def test_an_application_without_framework():
    """The lifespan protocol is answered, and the pool is in the state that requests receive."""
    server = Server()
    server.say({"type": "lifespan.startup"})
    lifespan = Lifespan(max_workers=1)
    served = asyncio.ensure_future(lifespan.serve(server.scope, server.receive, server.send))
    await wait_until(lambda: server.sent)
    pool = await get_pool({"state": server.scope["state"]})
    assert await pool.run(jobs.inc, 1) == 2
    server.say({"type": "lifespan.shutdown"})
    await served
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"nonsense": 1},
        {"stop_timeout": -1},
        {"stop_timeout": "5"},
        {"stop_timeout": float("inf")},
        {"server_processes": 0},
        {"server_processes": -2},
    ],
)
async def test_options_out_of_range_fail_the_start(options):
    """A lifespan whose pool cannot be made reports that the start failed."""
    server = Server()
    server.say({"type": "lifespan.startup"})
    server.say({"type": "lifespan.shutdown"})
    with pytest.raises((TypeError, ValueError)):
        await Lifespan(**options).serve(server.scope, server.receive, server.send)
    assert server.sent == ["lifespan.startup.failed"]


async def test_an_inner_lifespan_that_fails_to_end():
    """An error of the application's own lifespan at its end is reported, and the pool closed."""

    @contextlib.asynccontextmanager
    async def own(app):
        yield
        raise ValueError("odd")

    server = Server()
    server.say({"type": "lifespan.startup"})
    server.say({"type": "lifespan.shutdown"})
    with pytest.raises(ValueError, match="odd"):
        await Lifespan(own, max_workers=1).serve(server.scope, server.receive, server.send)
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


# --- frameworks -----------------------------------------------------------------------------


def test_no_framework_is_imported():
    """Importing the add-on imports neither Starlette nor FastAPI."""
    source = "import sys, aiopool.asgi; print({'starlette', 'fastapi'} & set(sys.modules))"
    assert run_python("-c", source).stdout.strip() == "set()"


def test_the_dependency_takes_any_connection():
    """The signature of get_pool asks FastAPI for what requests and websockets have in common."""
    (parameter,) = inspect.signature(get_pool).parameters.values()
    assert parameter.annotation is HTTPConnection
