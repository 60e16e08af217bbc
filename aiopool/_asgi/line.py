"""One client's connection: what the client sends, that it has left, and how it is answered."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import TypeAlias

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]

_AHEAD: Final = 64 * 1024
"""Bytes that are read ahead of the application; a server's own reads are as large."""

_MESSAGE: Final = 64
"""Bytes that a message counts for beside its payload, so that empty ones are bounded too."""

_GONE: Final = frozenset({"http.disconnect", "websocket.disconnect"})
_LAST: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "websocket.http.response.body"}
)
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.http.response.start", "websocket.close"}
)


class Answer(NamedTuple):
    """What a client is told in place of an error."""

    status: int
    code: int  # of a websocket's close, RFC 6455 and its registry
    text: str


@final
class Line:
    """The connection to one client, heard also while the application does something else.

    Messages are pulled from the server by one task at a time and held until the application takes
    them. Who waits in ``receive`` is told that the client has gone; otherwise the request's time is
    over. After the response nobody listens: servers then report every client as gone, and
    background tasks are to go on.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, patience: asyncio.Timeout
    ) -> None:
        self._receive = receive
        self._send = send
        self._patience = patience
        self._pull: asyncio.Future[Message] | None = None  # what is being asked of the server
        self._held: deque[asyncio.Future[Message]] = deque()
        self._ahead = 0  # bytes held
        self._readers = 0  # who wait in `receive`
        self._listening = self._muted = False
        self._over = False  # nothing more will come
        self._missed = False  # and nobody was told so
        # Asking for the body makes the client send it, which is the application's decision.
        self._wary = any(name == b"expect" for name, _ in scope["headers"])
        self.way: str | None = "http.response"  # how an error can still be told
        if scope["type"] == "websocket":
            denial = "websocket.http.response"
            self.way = denial if denial in scope.get("extensions", ()) else "websocket.close"

    # The application's side ---------------------------------------------------------------

    def listen(self) -> None:
        """From now on the request ends when its client leaves."""
        self._listening = not self._muted
        self._ask()

    def mute(self) -> None:
        """From now on the request ends by itself."""
        self._muted = True
        self._listening = False

    async def receive(self) -> Message:
        """The next message of the client."""
        self._readers += 1
        try:
            while not self._held and self._pull is not None:
                await asyncio.wait([self._pull])
            message = self._take() if self._held else await self._receive()
            self._wary = False
            self._over = self._over or message["type"] in _GONE
            return message
        finally:
            self._readers -= 1
            self._ask()
            self._end_if_missed()  # who waited was cancelled as the client left

    async def send(self, message: Message) -> None:
        """Pass it on, taking note of how far the response has come."""
        kind = message["type"]
        if kind == "websocket.accept":
            self.way = "websocket.close"
        elif kind in _STARTS:
            self.way = None
        if kind == "websocket.close" or (kind in _LAST and not message.get("more_body", False)):
            self.mute()
        await self._send(message)

    # The middleware's side ----------------------------------------------------------------

    async def tell(self, answer: Answer, retry_after: bytes) -> None:
        """Respond with an error. Only where there is a way."""
        way = self.way
        if way == "websocket.close":
            await self.send({"type": way, "code": answer.code, "reason": answer.text})
            return
        body = answer.text.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        if answer.status == 503:  # noqa: PLR2004 - Service Unavailable
            headers.append((b"retry-after", retry_after))
        await self.send({"type": f"{way}.start", "status": answer.status, "headers": headers})
        await self.send({"type": f"{way}.body", "body": body})

    async def close(self) -> None:
        """Ask the server for nothing more."""
        self._over = True
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.wait([self._pull])

    # The server's side --------------------------------------------------------------------

    def _ask(self) -> None:
        """Pull the next message, unless somebody does, enough is held, or nobody wants it."""
        wanted = self._listening and not (self._over or self._wary or self._readers)
        if wanted and self._pull is None and self._ahead < _AHEAD:
            self._pull = asyncio.ensure_future(self._receive())
            self._pull.add_done_callback(self._heard)

    def _heard(self, pull: asyncio.Future[Message]) -> None:
        self._pull = None
        if pull.cancelled():
            return
        self._held.append(pull)
        self._over = pull.exception() is not None or pull.result()["type"] in _GONE
        if not self._over:
            self._ahead += _weight(pull.result())
            self._ask()
        else:
            self._missed = True
            self._end_if_missed()

    def _end_if_missed(self) -> None:
        """The request's time is over once its client has left and nobody waits to be told."""
        if self._missed and self._listening and not self._readers:
            self._missed = False
            self._patience.reschedule(0)

    def _take(self) -> Message:
        """The oldest message held; the last of all is told to everybody who asks."""
        if self._over and len(self._held) == 1:
            self._missed = False
            return self._held[0].result()
        message = self._held.popleft().result()
        self._ahead -= _weight(message)
        return message


def _weight(message: Message) -> int:
    payload = message.get("body") or message.get("bytes") or message.get("text") or b""
    return _MESSAGE + len(payload)
