"""A web service as a program: stopped while it works, killed, and in several server processes."""

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from pathlib import Path

import httpx

from tests.e2e.programs import gone, members, running, started
from tests.helpers import ROOT, block_until, is_alive

LOOP = "asyncio" if importlib.util.find_spec("uvloop") is None else "uvloop"

PROGRAM = """
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from aiopool.asgi import Lifespan, PoolMiddleware, get_pool

async def work(request):
    pool = await get_pool(request)
    jobs.record(sys.argv[4], "begun")
    await pool.run(jobs.sleep_for, float(request.query_params["seconds"]))
    jobs.record(sys.argv[4], "ended")
    return JSONResponse("done")

def nap(x):
    time.sleep(0.01)
    return jobs.pid_and(x)

async def who(request):
    pool, pids = request.state.aiopool, set()
    while len(pids) < 2:
        pids |= {pid for pid, _ in await pool.map(nap, range(4))}
    return JSONResponse([os.getpid(), *pids])

app = Starlette(
    routes=[Route("/work", work), Route("/who", who)],
    lifespan=Lifespan(max_workers=2, grace_period=0.2),
    middleware=[Middleware(PoolMiddleware)],
)

if __name__ == "__main__":
    port, workers, grace = map(int, sys.argv[1:4])
    uvicorn.run(
        "program:app" if workers > 1 else app,
        port=port,
        workers=workers,
        loop=LOOP,
        timeout_graceful_shutdown=grace,
        app_dir=os.path.dirname(__file__),
    )
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def service(folder, *, workers=1, grace=10, loop="asyncio"):
    """Start the program, wait until it answers; give its process and a client."""
    port = free_port()
    with (
        started(folder, PROGRAM, port, workers, grace, folder / "journal", loop=loop) as program,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        block_until(lambda: answers(client), "the service answers")
        yield program, client


def answers(client):
    try:
        return client.get("/work", params={"seconds": 0}).status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Threads that ask for work again and again until they are refused; what became of each."""

    def __init__(self, client, *, seconds, threads):
        self.ends = []
        self._ask = (client.base_url, {"seconds": seconds})
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join()

    def _run(self):
        url, params = self._ask
        with httpx.Client(base_url=url, timeout=30) as client:
            while True:
                try:
                    end = client.get("/work", params=params).status_code
                except httpx.ConnectError:
                    end = "not accepted"
                except httpx.TransportError as error:
                    end = type(error).__name__
                self.ends.append(end)
                if end != 200:
                    return


def test_stopping_under_load_finishes_what_runs(tmp_path):
    """SIGTERM lets every accepted request end with an answer, and the server ends by the signal."""
    with service(tmp_path, loop=LOOP) as (program, client):
        with Load(client, seconds=0.1, threads=6) as load:
            block_until(lambda: len(load.ends) > 6, "it is under load")
            program.send_signal(signal.SIGTERM)
        assert program.wait(20) in {0, -signal.SIGTERM}
        # A kept connection may be closed just as its next request leaves: nothing was begun then.
        assert set(load.ends) <= {200, 503, "not accepted", "ReadError", "RemoteProtocolError"}
        gone(program.pid)
    lines = (tmp_path / "journal").read_text().split()
    assert lines.count("begun") == lines.count("ended") == load.ends.count(200) + 1
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_stopping_refuses_new_work(tmp_path):
    """While calls run after SIGTERM, connections are accepted and new work is answered 503."""
    with service(tmp_path, loop=LOOP) as (program, client):
        with Load(client, seconds=3, threads=2) as load:
            journal = tmp_path / "journal"
            block_until(lambda: journal.read_text().count("begun") >= 3, "both calls run")
            program.send_signal(signal.SIGTERM)
            refusal = block_until(lambda: refused(client), "newcomers are refused")
            assert refusal.headers["retry-after"] == "1"
        assert set(load.ends) <= {200, 503, "not accepted", "RemoteProtocolError"}
        assert load.ends.count(200) >= 2
        assert program.wait(20) in {0, -signal.SIGTERM}
        gone(program.pid)


def refused(client):
    """Ask for work in a new connection; the answer if it is a refusal."""
    answer = httpx.get(client.base_url.join("/work"), params={"seconds": 0})
    return answer if answer.status_code == 503 else None


def test_the_example_stops_as_asked(tmp_path):
    """The example service serves, and SIGTERM ends it with status 0 and nothing left."""
    port = free_port()
    path = ROOT / "docs" / "examples" / "webapp.py"
    with (
        (tmp_path / "err").open("w") as err,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
        running(path, "--port", port, stderr=err) as program,
    ):
        block_until(lambda: is_healthy(client), "the service answers")
        answer = client.post("/words", content=b"some some text")
        assert answer.json() == [["some", 2], ["text", 1]]
        program.terminate()
        assert program.wait(20) == 0
        gone(program.pid)
    assert "Traceback" not in (tmp_path / "err").read_text()


def is_healthy(client):
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_stopping_cuts_short_what_takes_too_long(tmp_path):
    """What has not ended when the server's patience is over is stopped, and nothing is left."""
    with service(tmp_path, grace=1) as (program, client):
        with Load(client, seconds=600, threads=3) as load:
            block_until(lambda: len(members(program.pid)) >= 4, "its workers run")
            program.send_signal(signal.SIGTERM)
        assert program.wait(20) in {0, -signal.SIGTERM}
        assert len(load.ends) == 3
        assert 200 not in load.ends
        gone(program.pid)


def test_several_server_processes_share_nothing(tmp_path):
    """Each server process has workers of its own, which end with it when it is killed."""
    with service(tmp_path, workers=2) as (program, client):
        crews = {}

        def both():
            with httpx.Client(base_url=client.base_url, timeout=30) as one:
                server, *workers = one.get("/who").json()
            crews[server] = workers
            return len(crews) == 2

        block_until(both, "both server processes have answered")
        (victim, lost), (other, kept) = crews.items()
        assert len(lost) == len(kept) == 2
        assert not set(lost) & set(kept)
        helpers = children(victim)  # its fork server and resource tracker among them
        os.kill(victim, signal.SIGKILL)
        block_until(lambda: not any(map(is_alive, [victim, *lost, *helpers])), "it is all gone")
        assert all(map(is_alive, [other, *kept]))
        block_until(lambda: answers(client), "the service answers")
        program.send_signal(signal.SIGTERM)
        program.wait(20)
        gone(program.pid)


def children(pid):
    """Give the pids of the direct children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found
