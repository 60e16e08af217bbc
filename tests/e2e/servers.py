"""Web servers on real sockets: one in the test's own event loop, or as a program."""

import asyncio
import contextlib
import importlib.util
import socket
import sys
from dataclasses import dataclass

import uvicorn

from tests.helpers import ROOT, wait_until


def load_example():
    """Give the example's module, the same to this process and its workers."""
    name = "webapp"
    if name not in sys.modules:
        path = ROOT / "docs" / "examples" / "webapp.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def free_socket():
    """A listening socket at a port the system chose."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


@dataclass(frozen=True)
class Site:
    """A server that runs."""

    server: uvicorn.Server
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def serving(app, **options):
    """Serve an application in this loop, and stop as at a SIGTERM."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=5, **options)
    server = uvicorn.Server(config)
    with free_socket() as listener:
        port = listener.getsockname()[1]
        task = asyncio.ensure_future(server.serve([listener]))
        try:
            await wait_until(lambda: server.started or task.done(), "the server has started")
            assert server.started
            yield Site(server, port)
        finally:
            server.should_exit = True
            await task


class Talk:
    """A client's connection, as bare as it gets: what is sent is sent, when it leaves it leaves."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def ask(self, path, body=b"", method=None):
        """Send a request."""
        method = method or ("POST" if body else "GET")
        head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def answer(self):
        """The status and the body of the next response, which has a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return status, await self.reader.readexactly(int(value))
        return status, b""

    async def get(self, path, body=b""):
        """Ask and be answered."""
        self.ask(path, body)
        return await self.answer()

    async def leave(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
