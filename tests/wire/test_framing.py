"""Frames put on a byte stream and taken off it again."""

import struct
import sys
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopool._wire import framing
from aiopool._wire.framing import LARGEST, MOST_BUFFERS, Decoder, ProtocolError, encode
from tests.helpers import run_python

SCRATCH = framing._SCRATCH
HEADER = framing._HEADER.size


def filled(size, seed):
    """Give bytes that tell where they came from."""
    pattern = bytes((seed * 31 + i) % 251 for i in range(251))
    return (pattern * (size // 251 + 1))[:size]


def on_the_wire(frames):
    return b"".join(bytes(piece) for frame in frames for piece in encode(*frame))


def feed(decoder, data, sizes=()):
    """Hand the decoder the bytes in chunks of these sizes, then as much at once as it takes."""
    frames = []
    sizes = iter(sizes)
    data = memoryview(data)
    while data:
        room = decoder.get_buffer()
        assert len(room)
        assert not room.readonly
        count = min(len(room), len(data), next(sizes, len(data)))
        room[:count] = data[:count]
        data = data[count:]
        frames.extend(
            (frame.kind, bytes(frame.body), [bytes(buffer) for buffer in frame.buffers])
            for frame in decoder.received(count)
        )
    assert len(decoder.get_buffer())
    return frames


SIZES = st.one_of(
    st.integers(0, 300),
    *(
        st.integers(-HEADER - 20, HEADER + 20).map(lambda off, around=around: around + off)
        for around in (SCRATCH // 4, SCRATCH // 2, SCRATCH, 2 * SCRATCH)
    ),
)
FRAMES = st.lists(
    st.tuples(st.integers(0, 255), SIZES, st.lists(SIZES, max_size=3)), min_size=1, max_size=5
).map(
    lambda shapes: [
        (kind, filled(body, n), [filled(size, n + k + 1) for k, size in enumerate(buffers)])
        for n, (kind, body, buffers) in enumerate(shapes)
    ]
)
CHUNKS = st.lists(st.one_of(st.integers(1, 40), SIZES.map(lambda size: max(size, 1))), max_size=60)


@settings(max_examples=150)
@given(FRAMES, CHUNKS)
def test_any_frames_survive_any_split(frames, sizes):
    """Whatever frames are written come out the same, however the stream is cut into pieces."""
    assert feed(Decoder(), on_the_wire(frames), sizes) == frames


@pytest.mark.parametrize("buffers", [[], [0], [1, 0, 5]])
def test_a_frame_fed_byte_by_byte(buffers):
    """A frame completes with its last byte and not before."""
    frame = (7, b"body", [filled(size, 1) for size in buffers])
    data = on_the_wire([frame])
    decoder = Decoder()
    assert feed(decoder, data[:-1], [1] * len(data)) == []
    assert feed(decoder, data[-1:]) == [frame]


@pytest.mark.parametrize("around", [SCRATCH // 2, SCRATCH])
@pytest.mark.parametrize("tail", [1, SCRATCH // 2 - 1])
def test_sizes_around_the_scratch_buffer(around, tail):
    """Frames that just fit the scratch buffer, or just do not, are received and so is the next."""
    for size in range(around - HEADER - 9, around + 2):
        frames = [(1, b"before", []), (2, filled(size, 1), []), (3, filled(tail, 2), [b"x"])]
        assert feed(Decoder(), on_the_wire(frames)) == frames


@pytest.mark.parametrize(
    "frame",
    [
        (0, b"", []),
        (255, b"", [b""]),
        (1, b"", [b"", b"", b""]),
        (1, b"", [b"", filled(SCRATCH, 1), b""]),
        (1, filled(SCRATCH, 1), [b""]),
        (1, b"x", [b"", filled(3 * SCRATCH, 1), b"", filled(5, 2)]),
    ],
    ids=["nothing", "an empty buffer", "empty buffers", "amid", "behind", "between"],
)
def test_empty_parts(frame):
    """Empty bodies and buffers are parts like any other."""
    assert feed(Decoder(), on_the_wire([frame, frame])) == [frame, frame]


def test_large_parts_are_received_into_memory_of_their_own():
    """The bytes of a large frame are put where they stay."""
    size = 4 * SCRATCH
    decoder = Decoder()
    data = memoryview(on_the_wire([(1, filled(size, 1), [filled(size, 2)])]))
    places, frames = [], []
    while data:
        room = decoder.get_buffer()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        places.append(room.obj)
        frames.extend(decoder.received(count))
    (frame,) = frames
    scratch, body, buffer = places
    assert frame.body is body
    assert frame.buffers[0] is buffer
    assert scratch is not body
    assert bytes(body) == filled(size, 1)
    assert bytes(buffer) == filled(size, 2)


def test_small_buffers_do_not_share_the_scratch_buffer():
    """A small frame's buffers stay what they are when the next frame comes."""
    decoder = Decoder()
    data = on_the_wire([(1, b"body", [b"first"])])
    decoder.get_buffer()[: len(data)] = data
    (frame,) = decoder.received(len(data))
    feed(decoder, on_the_wire([(1, b"ydob", [b"other"])]))
    assert frame.buffers == [b"first"]


def test_encode_does_not_copy_large_parts():
    """Large bodies and all buffers are handed on as the very objects they are."""
    body, buffer = bytes(SCRATCH), memoryview(bytearray(9))
    assert encode(1, body)[1] is body
    assert encode(1, b"", [buffer])[2] is buffer
    assert len(encode(1, b"small")) == 1


def test_buffers_are_measured_in_bytes():
    """A buffer of wide items crosses whole."""
    wide = memoryview(bytearray(filled(80, 1))).cast("Q")
    assert feed(Decoder(), on_the_wire([(1, b"", [wide])])) == [(1, b"", [filled(80, 1)])]


@pytest.mark.parametrize("count", [1_000, MOST_BUFFERS - 1, MOST_BUFFERS])
def test_many_buffers(count):
    """As many buffers as are allowed cross in one frame."""
    frame = (1, b"body", [b"x"] * count)
    assert feed(Decoder(), on_the_wire([frame, frame])) == [frame, frame]


def test_many_buffers_in_small_pieces():
    """A table of lengths that comes in pieces is waited for."""
    frame = (1, b"body", [b"ab", b""] * (MOST_BUFFERS // 2))
    data = on_the_wire([(2, filled(SCRATCH // 2 - 20, 3), []), frame])
    assert feed(Decoder(), data, [5_000] * 100)[1] == frame


# --- garbage --------------------------------------------------------------------------------


def header(magic=b"ap", kind=1, count=0, body=0):
    return struct.pack("<2sBxIQ", magic, kind, count, body)


def feed_garbage(data, sizes=()):
    """Feed it until it is refused; lengths are believed up to 1 MB only, to go easy on memory."""
    with mock.patch.object(framing, "LARGEST", 1 << 20):
        try:
            return feed(Decoder(), data, sizes)
        except ProtocolError:
            return None


@given(st.binary(max_size=200), CHUNKS)
def test_garbage_is_refused_or_awaits_more(data, sizes):
    """Bytes that are no frame give ProtocolError or nothing, and never another error."""
    frames = feed_garbage(data, sizes)
    if len(data) >= HEADER and not data.startswith(b"ap"):
        assert frames is None


@given(
    st.lists(
        st.builds(
            header,
            kind=st.integers(0, 255),
            count=st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
            body=st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1)),
        )
        | st.binary(max_size=40),
        max_size=6,
    ),
    CHUNKS,
)
def test_garbage_with_the_right_beginning(parts, sizes):
    """Headers that mean anything at all do no worse than plain garbage."""
    feed_garbage(b"".join(parts), sizes)


@given(FRAMES, st.integers(0, 10**6), st.integers(1, 255), CHUNKS)
@settings(max_examples=60)
def test_a_flipped_byte(frames, place, flip, sizes):
    """A stream with a damaged byte gives frames or ProtocolError, and no other error."""
    data = bytearray(on_the_wire(frames))
    data[place % len(data)] ^= flip
    feed_garbage(data, sizes)


@pytest.mark.parametrize(
    "data",
    [
        header(magic=b"pa"),
        header(body=LARGEST + 1),
        header(body=2**64 - 1),
        header(count=MOST_BUFFERS + 1),
        header(count=2**32 - 1),
        header(count=1) + struct.pack("<Q", LARGEST + 1),
        header(count=2) + struct.pack("<QQ", 1, 2**64 - 1),
    ],
    ids=["magic", "body", "huge body", "buffers", "huge count", "buffer", "huge buffer"],
)
def test_bounds(data):
    """What is beyond a bound is refused as soon as it can be read, before memory is taken."""
    with pytest.raises(ProtocolError):
        feed(Decoder(), data)


def test_frames_before_garbage_are_given():
    """What came whole before the garbage is not lost."""
    decoder = Decoder()
    data = on_the_wire([(1, b"good", [])]) + b"garbage, and enough of it"
    decoder.get_buffer()[: len(data)] = data
    frames = decoder.received(len(data))
    assert bytes(next(frames).body) == b"good"
    with pytest.raises(ProtocolError):
        next(frames)


OUT_OF_MEMORY = """
import resource, struct, sys
from aiopool._wire.framing import LARGEST, Decoder, ProtocolError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for lengths in ([LARGEST], [0, LARGEST], [1 << 29] * 4):
    decoder = Decoder()
    data = struct.pack("<2sBxIQ", b"ap", 1, len(lengths) - 1, lengths[0])
    data += struct.pack(f"<{len(lengths) - 1}Q", *lengths[1:]) + b"x"
    decoder.get_buffer()[: len(data)] = data
    try:
        list(decoder.received(len(data)))
    except ProtocolError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_more_than_there_is_memory():
    """A length for which there is no memory is the peer's error and not a MemoryError."""
    done = run_python("-c", OUT_OF_MEMORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no memory for a frame") == 3
