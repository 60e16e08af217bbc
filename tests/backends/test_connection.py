"""Frames over a socket as an asyncio transport, on both loops."""

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from aiopool._backends.connection import Connection
from aiopool._wire.framing import Decoder, encode
from tests.helpers import wait_until

MEGABYTE = 1 << 20


class Listener:
    """Remembers what it is told."""

    def __init__(self):
        self.frames = []
        self.batches = []  # how many frames had come at the end of each batch
        self.ended = 0

    def frame_received(self, frame):
        assert not self.ended
        buffers = [bytes(buffer) for buffer in frame.buffers]
        self.frames.append((frame.kind, bytes(frame.body), buffers))

    def batch_received(self):
        self.batches.append(len(self.frames))

    def connection_ended(self):
        self.ended += 1


class Peer:
    """The other end: a plain socket and a decoder."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()

    async def write(self, data):
        await self._loop.sock_sendall(self.sock, data)

    async def send(self, *frames):
        for frame in frames:
            await self.write(b"".join(map(bytes, encode(*frame))))

    async def read(self, count, step=1 << 30):
        """Read until that many frames have come, `step` bytes at a time."""
        frames = []
        while len(frames) < count:
            room = self._decoder.get_buffer()[:step]
            got = await self._loop.sock_recv_into(self.sock, room)
            assert got, f"the end after {len(frames)} frames"
            frames += [
                (frame.kind, bytes(frame.body), [bytes(buffer) for buffer in frame.buffers])
                for frame in self._decoder.received(got)
            ]
        assert len(frames) == count
        return frames

    async def at_end(self):
        try:
            return await self._loop.sock_recv(self.sock, 1) == b""
        except ConnectionResetError:
            return True


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    return here, there


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture(params=[socket.socketpair])
async def ends(request, listener):
    """Give a connection and its peer."""
    here, there = request.param()
    connection = await Connection.open(listener, here)
    yield connection, Peer(there)
    connection.close()
    await wait_until(lambda: listener.ended, "the connection to end")
    there.close()
    assert listener.ended == 1
    connection.drain()
    connection.catch_up()
    connection.close()
    connection.send(1, b"nobody hears this", [])


@pytest.fixture
def connection(ends):
    return ends[0]


@pytest.fixture
def peer(ends):
    return ends[1]


FRAMES = [
    (1, b"", []),
    (2, b"body", []),
    (3, b"", [b""]),
    (4, b"x", [b"", b"buffer", b""]),
    (5, bytes(range(256)) * 2_000, [bytes(3 * MEGABYTE), b"end"]),
    (6, b"y" * MEGABYTE, []),
    (7, b"last", []),
]
both_families = pytest.mark.parametrize(
    "ends", [socket.socketpair, tcp_pair], indirect=True, ids=["unix", "tcp"]
)


# --- both ways ------------------------------------------------------------------------------


@both_families
async def test_frames_out(connection, peer):
    """Frames of all sizes are written in the order they were sent."""
    for frame in FRAMES:
        connection.send(*frame)
    assert await peer.read(len(FRAMES)) == FRAMES


@both_families
async def test_frames_in(peer, listener):
    """Frames of all sizes are told of in the order they came, and then the end of the batch."""
    await peer.send(*FRAMES)
    await wait_until(lambda: len(listener.frames) == len(FRAMES))
    assert listener.frames == FRAMES
    assert listener.batches[-1] == len(FRAMES)


@pytest.mark.usefixtures("connection")
async def test_frames_that_come_together_are_one_batch(peer, listener):
    """Small frames that came in one piece are all told of before the end of their batch."""
    await peer.write(b"".join(piece for n in range(50) for piece in encode(n, b"body")))
    await wait_until(lambda: len(listener.frames) == 50)
    assert listener.batches == [50]


@pytest.mark.usefixtures("connection")
async def test_a_frame_in_single_bytes(peer, listener):
    """A frame is told of when its last byte has come."""
    data = b"".join(encode(1, b"body", [b"buffer"]))
    for n in range(len(data)):
        assert listener.frames == []
        await peer.write(data[n : n + 1])
        await wait_until(lambda n=n: len(listener.batches) >= n + 1)
    assert listener.frames == [(1, b"body", [b"buffer"])]


async def test_sending_and_receiving_at_once(connection, peer, listener):
    """Large frames cross in both directions at the same time."""
    frame = (1, b"body", [os.urandom(8 * MEGABYTE)])
    connection.send(*frame)
    _, (received,) = await asyncio.gather(peer.send(frame), peer.read(1))
    assert received == frame
    await wait_until(lambda: listener.frames)
    assert listener.frames == [frame]


# --- large and slow -------------------------------------------------------------------------


async def test_64_megabytes_to_a_slow_reader(connection, peer):
    """A large buffer goes out in slices, of which the transport never holds more than a few."""
    data = os.urandom(MEGABYTE) * 64
    held = []
    connection.send(1, b"body", [memoryview(data)])

    async def watch():
        while True:
            held.append(connection._transport.get_write_buffer_size())
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    ((kind, body, (received,)),) = await peer.read(1, step=100_000)
    watching.cancel()
    await asyncio.wait([watching])
    assert (kind, body) == (1, b"body")
    assert received == data
    assert max(held) <= MEGABYTE


async def test_order_is_kept_while_the_peer_does_not_read(connection, peer):
    """What is sent while the socket is full waits its turn, small and large."""
    frames = []
    for n in range(40):
        frames += [(n, b"small", []), (n, b"with buffers", [bytes([n]) * 300_000, b""])]
        connection.send(*frames[-2])
        connection.send(*frames[-1])
        await asyncio.sleep(0)
    assert connection._transport.get_write_buffer_size() <= MEGABYTE
    assert await peer.read(len(frames)) == frames
    connection.send(99, b"after", [])
    assert await peer.read(1) == [(99, b"after", [])]


async def test_a_wide_buffer(connection, peer):
    """A buffer of items wider than a byte is sent whole."""
    wide = memoryview(bytearray(range(240))).cast("Q")
    connection.send(1, b"", [wide])
    assert await peer.read(1) == [(1, b"", [bytes(range(240))])]


# --- the end --------------------------------------------------------------------------------


async def test_the_peer_closes(connection, peer, listener):
    """The end is told once, after what was written before it, and later sends are ignored."""
    await peer.send(*FRAMES)
    peer.sock.close()
    await wait_until(lambda: listener.ended)
    assert listener.frames == FRAMES
    connection.send(1, b"too late", [b"x" * MEGABYTE])


@pytest.mark.usefixtures("connection")
async def test_the_peer_closes_within_a_frame(peer, listener):
    """A frame that does not come whole is not told of."""
    await peer.write(b"".join(encode(1, b"x" * 100, [b"y" * MEGABYTE]))[:-1])
    peer.sock.close()
    await wait_until(lambda: listener.ended)
    assert listener.frames == []


async def test_the_peer_closes_while_it_is_written_to(connection, peer, listener):
    """A peer that dies in the middle of a large frame ends the connection, and nothing is kept."""
    data = bytearray(16 * MEGABYTE)
    connection.send(1, b"body", [data])
    await peer._loop.sock_recv(peer.sock, 100_000)
    peer.sock.close()
    await wait_until(lambda: listener.ended)
    await wait_until(lambda: _is_free(data), "the buffer to be let go")


def _is_free(data):
    try:
        data.append(0)
    except BufferError:
        return False
    return True


async def test_close_is_seen_by_the_peer(connection, peer, listener):
    """Closing drops what was not written yet; the peer and the listener see the end."""
    connection.send(1, b"body", [bytes(16 * MEGABYTE)])
    connection.close()
    connection.send(2, b"too late", [])
    connection.send(3, b"too late", [b"x" * MEGABYTE])
    await wait_until(lambda: listener.ended)
    with pytest.raises(AssertionError, match="the end after 0 frames"):
        await peer.read(1)


async def test_closing_twice(connection, peer, listener):
    """Closing again, before or after the end, does nothing."""
    connection.close()
    connection.close()
    await wait_until(lambda: listener.ended)
    connection.close()
    assert await peer.at_end()


async def test_the_socket_is_closed_with_the_connection(listener):
    """The connection owns the socket and leaves no descriptor."""
    here, there = socket.socketpair()
    connection = await Connection.open(listener, here)
    connection.close()
    await wait_until(lambda: listener.ended)
    await wait_until(lambda: here.fileno() == -1)
    there.close()


# --- garbage --------------------------------------------------------------------------------


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("before", [[], FRAMES[:2], FRAMES])
async def test_garbage(peer, listener, before):
    """A peer that writes garbage is hung up on; the frames before are told of."""
    await peer.send(*before)
    await peer.write(b"Segmentation fault (core dumped)\n" * 3)
    await wait_until(lambda: listener.ended)
    assert listener.frames == before
    assert await peer.at_end()


@pytest.mark.usefixtures("connection")
async def test_frames_after_garbage_are_not_believed(peer, listener):
    """Nothing that comes after garbage is told of."""
    await peer.write(b"x" * 100 + b"".join(encode(1, b"body")))
    await wait_until(lambda: listener.ended)
    assert listener.frames == []


# --- drain ----------------------------------------------------------------------------------


@pytest.fixture
def held(peer):
    """Let another process hold the peer's end open."""
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        pass_fds=[peer.sock.fileno()],
        stdin=subprocess.PIPE,
    )
    yield
    holder.communicate()


unix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not inherited there")


@unix
@pytest.mark.usefixtures("held")
async def test_drain_takes_what_a_dead_peer_had_written(connection, peer, listener):
    """What a peer wrote before it died is told of though another process holds its end."""
    frames = [(n, bytes([n]) * 1_000, []) for n in range(100)]
    await peer.send(*frames)
    peer.sock.close()
    connection.drain()
    await wait_until(lambda: listener.ended)
    assert listener.frames == frames


@unix
@pytest.mark.usefixtures("held")
async def test_drain_of_a_large_frame(connection, peer, listener):
    """A large frame of which the rest lies in the socket when the peer dies is told of whole."""
    frame = (1, b"body", [os.urandom(4 * MEGABYTE)])
    await peer.send(frame)
    peer.sock.close()
    connection.drain()
    await wait_until(lambda: listener.ended)
    assert listener.frames == [frame]


@unix
@pytest.mark.usefixtures("held")
async def test_drain_within_a_frame(connection, peer, listener):
    """A frame that the peer died over is given up."""
    await peer.write(b"".join(encode(1, b"x" * 1_000))[:-1])
    peer.sock.close()
    connection.drain()
    await wait_until(lambda: listener.ended)
    assert listener.frames == []


@unix
@pytest.mark.usefixtures("held")
async def test_drain_with_nothing_to_read(connection, peer, listener):
    """A connection on which nothing waits ends at once."""
    peer.sock.close()
    connection.drain()
    connection.drain()
    await wait_until(lambda: listener.ended)


@pytest.mark.parametrize("frames", [[], FRAMES[:3]])
async def test_drain_after_an_ordinary_end(connection, peer, listener, frames):
    """Where the peer's end is closed for good, draining does no harm."""
    await peer.send(*frames)
    peer.sock.close()
    connection.drain()
    await wait_until(lambda: listener.ended)
    assert listener.frames == frames


@unix
@pytest.mark.usefixtures("held")
async def test_drain_while_writing(connection, peer, listener):
    """Draining gives up what was to be written to the dead peer."""
    connection.send(1, b"body", [bytes(16 * MEGABYTE)])
    await peer.send((2, b"result", []))
    peer.sock.close()
    connection.drain()
    await wait_until(lambda: listener.ended)
    assert listener.frames == [(2, b"result", [])]


# --- ahead of the loop ----------------------------------------------------------------------


async def test_catching_up(connection, peer, listener):
    """What has come is told without a turn of the loop, what comes later by the loop."""
    connection.catch_up()
    assert listener.batches == []
    peer.sock.sendall(b"".join(map(bytes, encode(1, b"one"))))
    connection.catch_up()
    assert listener.frames == [(1, b"one", [])]
    await peer.send((2, b"two", []))
    await wait_until(lambda: len(listener.frames) == 2, "the second frame")


async def test_catching_up_amid_a_frame(connection, peer, listener):
    """A listener that catches up while it is told of a frame reads nothing out of order."""
    told = listener.frame_received

    def tell_and_catch_up(frame):
        told(frame)
        connection.catch_up()

    listener.frame_received = tell_and_catch_up
    data = b"".join(bytes(piece) for kind in range(1, 9) for piece in encode(kind, b"x"))
    peer.sock.sendall(data[:-3])
    connection.catch_up()
    peer.sock.sendall(data[-3:])
    connection.catch_up()
    assert [kind for kind, _, _ in listener.frames] == list(range(1, 9))


async def test_catching_up_at_the_end(connection, peer, listener):
    """The end is left to the event loop."""
    peer.sock.shutdown(socket.SHUT_WR)
    connection.catch_up()
    assert not listener.ended
    await wait_until(lambda: listener.ended, "the end")
