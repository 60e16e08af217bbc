"""A small web service whose CPU work runs in worker processes (needs the extra ``web``).

    python docs/examples/webapp.py --port 8000          (or: uvicorn webapp:app, in this folder)

    curl --data-binary @photo.jpg localhost:8000/thumbnail -o small.jpg      (needs Pillow)
    curl --data-binary @book.txt localhost:8000/words                        the commonest words
    curl --data-binary @numbers.txt localhost:8000/factors                   NDJSON, as it comes
    websocat ws://localhost:8000/count                                       send 1000000; progress
    curl localhost:8000/health; curl localhost:8000/statistics

The event loop only ever waits: an answer that costs a second of CPU delays no other. A client that
leaves stops its work. When too much is waiting new requests are answered 503, late ones 504, and
a worker that dies costs nobody an answer. Several server processes: WEB_CONCURRENCY=2 uvicorn ...
"""

import argparse
import io
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import aiopool
from aiopool.asgi import Lifespan, PoolMiddleware, get_pool, give_way

try:
    from PIL import Image
except ModuleNotFoundError:
    Image = None

BIGGEST = 10 * 1024 * 1024  # bytes of a request's body
STEPS = 20  # parts that a count is divided into, each of which is told of
LARGEST_COUNT = 50_000_000
LARGEST_NUMBER = 10**13

# What each answer may take, and what makes good for a worker that dies. Text and images are short
# and somebody waits for them; a stream is long, and gives way to them.
SHORT = aiopool.TaskOptions(
    timeout=10,
    deadline=20,
    priority=aiopool.Priority.HIGH,
    retry=aiopool.Retry(3, on=aiopool.WorkerCrashed, wait_initial=0.01),
)
LONG = aiopool.TaskOptions(timeout=60, retry=SHORT["retry"])

# The work is done by plain functions, which know nothing of the web.


def shrink(picture: bytes, side: int) -> bytes:
    """The picture as a JPEG that fits into a square; raises ValueError if it is none."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.thumbnail((side, side))
            small = io.BytesIO()
            image.convert("RGB").save(small, "JPEG")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"this is no picture: {error}") from None
    return small.getvalue()


def common_words(text: bytes, count: int) -> list[tuple[str, int]]:
    words = re.findall(r"[^\W\d_]{4,}", text.decode(errors="replace").lower())
    return Counter(words).most_common(count)


def factors(line: str) -> dict[str, object]:
    """The prime factors of the number in a line, or why there are none."""
    if not line.isascii() or not line.isdigit() or not 1 < int(line) <= LARGEST_NUMBER:
        return {"line": line[:100], "error": f"not a number from 2 to {LARGEST_NUMBER}"}
    left, found, divisor = int(line), [], 2
    while divisor * divisor <= left:
        while left % divisor == 0:
            found.append(divisor)
            left //= divisor
        divisor += 1
    return {"number": int(line), "factors": found + [left] * (left > 1)}


def count_primes(first: int, last: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(2, first), last))


# What is heard and answered is done on the event loop.


async def body_of(request: Request) -> bytes:
    """The body, if it is not too large: then 413, before the rest of it is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BIGGEST:
            raise HTTPException(413, f"the body may have {BIGGEST} bytes")
    return bytes(body)


async def pool_of(connection: HTTPConnection, options: aiopool.TaskOptions) -> aiopool.PoolView:
    """The pool as this client has it: whoever asks for much takes turns with whoever asks once."""
    pool = await get_pool(connection)
    client = connection.client.host if connection.client else None
    return pool.view(**options).view(fairness_key=client)


async def asked_for(
    request: Request, options: aiopool.TaskOptions
) -> tuple[aiopool.PoolView, bytes]:
    """The pool and the body; 503 where too much waits before the body is sent, or once it is."""
    pool, body = await pool_of(request, options), await body_of(request)
    pool.admit()  # others may have come meanwhile
    return pool, body


async def thumbnail(request: Request) -> Response:
    if Image is None:
        raise HTTPException(501, "Pillow is not installed")
    pool, picture = await asked_for(request, SHORT)
    try:  # who asks for the same picture at the same time shares one call
        small = await pool.run(shrink, picture, 256, key=picture)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return Response(small, media_type="image/jpeg")


async def words(request: Request) -> Response:
    pool, text = await asked_for(request, SHORT)
    return JSONResponse(await pool.run(common_words, text, 10, key=text))


async def factor(request: Request) -> Response:
    pool, text = await asked_for(request, LONG)

    async def rows() -> AsyncIterator[str]:
        async with pool.stream(factors, text.decode("latin-1").split()) as results:
            async for row in results:
                yield json.dumps(row) + "\n"

    return StreamingResponse(rows(), media_type="application/x-ndjson")


async def count(websocket: WebSocket) -> None:
    """Count the primes below what the client sends; one message for each part that is done."""
    pool = await pool_of(websocket, LONG)
    await websocket.accept()
    try:
        size = int(await websocket.receive_text())
    except ValueError:
        size = 0
    if not STEPS <= size <= LARGEST_COUNT:
        await websocket.close(1008, f"send a number from {STEPS} to {LARGEST_COUNT}")
        return
    bounds = [size * step // STEPS for step in range(STEPS + 1)]
    total = done = 0
    parts = pool.stream(count_primes, bounds[:-1], bounds[1:], ordered=False)
    async with parts as results:
        async for primes in results:
            total, done = total + primes, done + 1
            await websocket.send_json({"done": done / STEPS, "primes": total})
    await websocket.close()


async def health(request: Request) -> Response:
    """200 while the pool takes work; from the pool itself, so that this is never cancelled."""
    pool: aiopool.Pool = request.state.aiopool
    try:
        pool.admit()
    except (aiopool.PoolFull, aiopool.PoolClosed) as error:
        return PlainTextResponse(f"{error}\n", 503)
    return PlainTextResponse("ok\n")


async def statistics(request: Request) -> Response:
    return JSONResponse(asdict(request.state.aiopool.statistics()))


app = Starlette(
    routes=[
        Route("/thumbnail", thumbnail, methods=["POST"]),
        Route("/words", words, methods=["POST"]),
        Route("/factors", factor, methods=["POST"]),
        WebSocketRoute("/count", count),
        Route("/health", health),
        Route("/statistics", statistics),
    ],
    lifespan=Lifespan(
        max_pending=64,
        stop_timeout=5,
        max_worker_memory=1 << 30,
        initializer=give_way,  # to the event loop, where CPUs are short
    ),
    middleware=[Middleware(PoolMiddleware)],
)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way then has ten seconds."""
    parser = argparse.ArgumentParser(description="Serve thumbnails, words, factors and counts.")
    parser.add_argument("--host", default="127.0.0.1", help="the address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any free one")
    options = parser.parse_args()
    # Once all is closed uvicorn raises the signal again that it was stopped by: that is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(app, host=options.host, port=options.port, timeout_graceful_shutdown=10)


if __name__ == "__main__":
    main()
