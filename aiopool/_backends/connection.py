"""The parent's end of a lane's socket as an asyncio transport: frames in, frames out, and the end.

Large buffers are written in slices along the transport's flow control: given whole, a transport
copies what the socket does not take at once.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, cast, final

from aiopool._wire.framing import Decoder, ProtocolError, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiopool._wire.framing import Bytes, Frame

_SLICE: Final = 256 * 1024


class Listener(Protocol):
    """Who is told what the connection brings."""

    def frame_received(self, frame: Frame) -> None:
        """A whole frame has come."""

    def batch_received(self) -> None:
        """The frames that came together have all been told."""

    def connection_ended(self) -> None:
        """Nothing more will come."""


@final
class Connection(asyncio.BufferedProtocol):
    """One socket, spoken by frames."""

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        self._listener = listener
        self._sock = sock
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._backlog: deque[memoryview] = deque()  # slices waiting for the transport to take them
        self._paused = False
        self._receiving = False  # amid what came, some of which may make somebody read again

    @classmethod
    async def open(cls, listener: Listener, sock: socket.socket) -> Connection:
        """Make a transport of a connected socket, which the transport owns from then on."""
        loop = asyncio.get_running_loop()
        connection = cls(listener, sock)
        if sock.family == getattr(socket, "AF_UNIX", None):
            await loop.create_unix_connection(lambda: connection, sock=sock)
        else:
            await loop.create_connection(lambda: connection, sock=sock)
        return connection

    def send(self, kind: int, body: Bytes, buffers: Sequence[Bytes]) -> None:
        """Write one frame; returns at once."""
        if self._transport is None:
            return
        pieces = encode(kind, body, buffers)
        if len(pieces) == 1 and not self._backlog and not self._paused:
            self._transport.write(pieces[0])
            return
        for piece in pieces:
            view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
            self._backlog.extend(view[i : i + _SLICE] for i in range(0, len(view), _SLICE))
        self._pump()

    def close(self) -> None:
        """Close the socket: the worker sees the end of its calls."""
        if self._transport is not None:
            self._backlog.clear()
            self._transport.abort()

    def drain(self) -> None:
        """The peer is dead: take what it had written, then close.

        Needed where a process forked by the peer still holds its end, so that no end comes.
        """
        if self._transport is None or self._transport.is_closing():
            return
        try:
            if not self._sock.recv(1, socket.MSG_PEEK):
                return  # the end is on its way
        except (BlockingIOError, InterruptedError):
            self.close()
        except OSError:
            return  # as is the error
        else:
            asyncio.get_running_loop().call_soon(self.drain)

    def catch_up(self) -> None:
        """Read what has come before the event loop does; the end, and errors, are left to it."""
        if self._transport is None or self._receiving or sys.platform == "win32":
            return  # there a read is under way at all times
        try:
            count = self._sock.recv_into(self._decoder.get_buffer())
        except OSError:  # nothing has come, mostly
            return
        if count:
            self.buffer_updated(count)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio's question where to put what comes."""
        return self._decoder.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio has put something there."""
        self._receiving = True
        try:
            for frame in self._decoder.received(nbytes):
                self._listener.frame_received(frame)
        except ProtocolError:
            self.close()
        finally:
            self._receiving = False
        self._listener.batch_received()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's hello."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's farewell, whoever closed."""
        del exc  # a reset connection and a closed one mean the same: the worker is gone
        self._transport = None
        self._backlog.clear()
        self._listener.connection_ended()

    def pause_writing(self) -> None:
        """The socket is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self._pump()

    def _pump(self) -> None:
        while self._backlog and not self._paused and self._transport is not None:
            self._transport.write(self._backlog.popleft())
