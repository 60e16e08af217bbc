"""What gathers a worker's lines, packs its records, and holds interrupts off meanwhile."""

import logging
import sys
import threading

import pytest

from aiopool._wire.framing import Decoder
from aiopool._wire.messages import END, FLUSH, LONGEST_LINE, MORE, RECORD, RESULTS, TEXT
from aiopool._wire.pickling import loads
from aiopool._worker import output
from aiopool._worker.output import Output, Shield
from aiopool._worker.serve import Worker
from tests.helpers import PATIENCE


class Lane:
    """Keeps what it is to send."""

    def __init__(self):
        self.current = 0
        self.frames = []
        self.on_send = lambda: None
        self.output = Output(self, Shield(lambda *_: None), {})

    def send(self, kind, body):
        self.on_send()
        self.frames.append((kind, loads(body)))

    @property
    def texts(self):
        """What was sent as text, with how it was sent."""
        return [(data.decode(), how) for kind, (_, data, how) in self.frames if kind == TEXT]


@pytest.fixture
def lane():
    return Lane()


@pytest.fixture
def stream(lane):
    """Give the stream that would be a worker's standard output."""
    return output._text_stream(lane.output._lines[0])


# --- lines ----------------------------------------------------------------------------------


def test_a_line_is_sent_when_it_is_whole(lane, stream):
    """Nothing is sent of a line before its end, and all of it then."""
    stream.write("one")
    assert lane.texts == []
    stream.write(" two\nthree")
    assert lane.texts == [("one two\n", MORE)]
    assert lane.output.unsettled


def test_lines_written_together_are_sent_together(lane, stream):
    """Several lines in one write are one frame, and the beginning of the next waits."""
    stream.write("one\ntwo\nthree")
    assert lane.texts == [("one\ntwo\n", MORE)]


def test_finish(lane, stream):
    """At the end of a call the unfinished line is sent, and that it was its end; once."""
    stream.write("one")
    lane.output.finish()
    assert lane.texts == [("one", END)]
    assert not lane.output.unsettled
    lane.output.finish()
    assert len(lane.texts) == 1


def test_finish_after_whole_lines(lane, stream):
    """After whole lines there is nothing to be sent at the end of a call."""
    stream.write("one\n")
    lane.output.finish()
    assert lane.texts == [("one\n", MORE)]


def test_flush(lane, stream):
    """A flush sends the unfinished line; a second one has nothing to send."""
    stream.write("one")
    stream.flush()
    stream.flush()
    assert lane.texts == [("one", FLUSH)]
    stream.write(" two\n")
    stream.flush()
    assert lane.texts[1:] == [(" two\n", MORE), ("", FLUSH)]
    lane.output.finish()
    assert lane.texts[3:] == [("", END)]


def test_flush_of_nothing(lane, stream):
    """A flush of a stream that was not written to sends nothing."""
    stream.flush()
    assert lane.frames == []


def test_each_thread_has_its_line(lane, stream):
    """Unfinished lines of two threads do not run together."""
    stream.write("mine ")
    thread = threading.Thread(target=stream.write, args=("theirs",))
    thread.start()
    thread.join(PATIENCE)
    stream.write("all mine\n")
    assert lane.texts == [("mine all mine\n", MORE)]
    lane.output.finish()
    assert lane.texts[1:] == [("theirs", END)]


def test_the_longest_line(lane, stream):
    """A line without an end is sent when it is as long as a line may be."""
    stream.write("x" * (LONGEST_LINE - 1))
    assert lane.texts == []
    stream.write("yz")
    text = "".join(text for text, _ in lane.texts)
    assert text == "x" * (LONGEST_LINE - 1) + "yz"


def test_many_small_pieces_of_a_line(lane, stream):
    """A line may be written a character at a time."""
    for _ in range(50_000):
        stream.write("x")
    stream.write("\n")
    assert lane.texts == [("x" * 50_000 + "\n", MORE)]


@pytest.mark.parametrize(
    "text",
    [
        b"short\n",
        b"line\n" * 100_000,
        b"x" * 300_000 + b"\n" + b"line\n" * 50_000,
        b"line\n" * 50_000 + b"x" * 300_000,
        b"x" * (3 * LONGEST_LINE),
    ],
    ids=["short", "many", "long first", "long last", "too long"],
)
def test_slices(text):
    """Slices are the text, cut at the ends of lines as long as these are not too far apart."""
    slices = list(output._slices(text))
    assert b"".join(slices) == text
    assert all(piece.endswith(b"\n") or len(piece) == LONGEST_LINE for piece in slices[:-1])
    assert all(len(piece) <= output._SLICE or b"\n" not in piece[:-1] for piece in slices)


def test_what_cannot_be_encoded(lane, stream):
    """A lone surrogate is written escaped."""
    stream.write("\udc80\n")
    assert lane.texts == [("\\udc80\n", MORE)]


def test_closing(lane, stream):
    """Closing a standard stream flushes it and leaves it open."""
    stream.write("one")
    stream.close()
    stream.write(" two\n")
    assert lane.texts == [("one", FLUSH), (" two\n", MORE)]


def test_nobody_listens(lane, stream):
    """Writing fails for nobody when the lane has ended."""
    lane.on_send = _fail
    assert stream.write("one\n") == 4
    stream.flush()
    lane.output.finish()
    assert lane.frames == []


def _fail():
    raise BrokenPipeError


def test_printing_amid_printing(lane, stream):
    """What a finalizer prints amid a line that is being sent follows it, whole."""

    def interlude():
        lane.on_send = lambda: None
        stream.write("meanwhile\n")
        stream.write("begun")

    stream.write("one")
    lane.on_send = interlude
    stream.write(" two\nthree")
    stream.write(" four\n")
    assert sorted(text for text, _ in lane.texts) == [
        "begunthree four\n",
        "meanwhile\n",
        "one two\n",
    ]


def test_detached(lane, stream, capsys, monkeypatch):
    """A detached stream writes to the one the process was started with, and drops what it held."""
    monkeypatch.setattr(sys, "__stdout__", sys.stdout)
    stream.write("held")
    lane.output.detach()
    stream.write("seen\n")
    stream.flush()
    lane.output.finish()
    assert capsys.readouterr().out == "seen\n"
    assert lane.frames == []


def test_detached_without_a_stream(lane, stream, monkeypatch):
    """A detached stream of a process without a console drops what is written."""
    monkeypatch.setattr("sys.__stdout__", None)
    lane.output.detach()
    stream.write("dropped\n")
    stream.flush()


# --- records --------------------------------------------------------------------------------


def record_of(text, *args, **extra):
    record = logging.makeLogRecord({"msg": text, "args": args, **extra})
    output._Handler(LANE.output).emit(record)
    return LANE.frames.pop()


@pytest.fixture(autouse=True)
def _lane_of_records(lane):
    global LANE
    LANE = lane


def test_record():
    """A record's text is made before it is sent; scalars go as they are, other fields pickled."""
    kind, (call, fields, extra) = record_of("%s!", "hello", number=5, pair=(1, 2))
    assert (kind, call) == (RECORD, 0)
    assert (fields["msg"], fields["args"], fields["number"]) == ("hello!", None, 5)
    assert loads(extra) == {"pair": (1, 2)}


def test_record_of_scalars_only():
    """Where there are no other fields there is no pickle of them."""
    assert record_of("hello")[1][2] == b""


def test_call_of_a_record(lane):
    """The thread of the calls writes for the one that runs, another for that in which it began."""
    calls = []

    def look(numbers):
        for lane.current in numbers:
            calls.append(lane.output.call())

    lane.current = 7
    assert lane.output.call() == 7
    thread = threading.Thread(target=look, args=((7, 7, 0, 8, 7),))
    thread.start()
    thread.join(PATIENCE)
    assert calls == [7, 7, 0, 0, 7]


# --- interrupts and frames ------------------------------------------------------------------


def test_shield():
    """An interrupt that comes behind the shield is acted on once it is down, once."""
    struck = []
    shield = Shield(lambda *_: struck.append(shield.puts_off()))
    assert not shield.puts_off()
    with shield:
        with shield:
            assert shield.puts_off()
            assert shield.puts_off()
        assert struck == []
    assert struck == [False]
    with shield:
        pass
    assert struck == [False]


def test_shield_of_another_thread():
    """Another thread's lines hold no interrupt off."""
    shield = Shield(lambda *_: None)
    found = []

    def look():
        with shield:
            found.append(shield.puts_off())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(PATIENCE)
    assert found == [False]


def test_lines_of_finished_calls_are_handed_in():
    """Handing in finished calls amid another sends their unfinished lines, not that call's own."""
    sock = Socket()
    worker = Worker(sock, Slate())
    worker.output = Output(worker, worker._shield, {})
    stream = output._text_stream(worker.output._lines[0])
    worker.current = 1
    stream.write("of the first")
    worker.current = 2
    worker.on_interrupt(0, None)
    assert [kind for kind, _ in sock.kinds()] == [TEXT]
    assert b"of the first" in sock.sent
    stream.write("of the second")
    worker.on_interrupt(0, None)
    assert b"of the second" not in sock.sent


class Socket:
    """Takes what is sent, and does something else amid the first."""

    def __init__(self):
        self.sent = b""
        self.amid = None

    def sendall(self, data):
        amid, self.amid = self.amid, None
        half = len(data) // 2
        self.sent += bytes(data[:half])
        if amid is not None:
            amid()
        self.sent += bytes(data[half:])

    def kinds(self):
        decoder = Decoder()
        decoder.get_buffer()[: len(self.sent)] = self.sent
        return [(frame.kind, bytes(frame.body)) for frame in decoder.received(len(self.sent))]


class Slate:
    def __init__(self):
        self.words = [0] * 9
        self.space = memoryview(bytearray(64))


def test_frame_amid_a_frame():
    """A frame that a finalizer sends amid another follows it whole."""
    sock = Socket()
    worker = Worker(sock, Slate())
    sock.amid = lambda: worker.send(TEXT, b"finalizer")
    worker.send(RESULTS, b"result")
    worker.send(RESULTS, b"next")
    assert sock.kinds() == [(RESULTS, b"result"), (TEXT, b"finalizer"), (RESULTS, b"next")]


def test_frames_of_threads():
    """Threads that send at once send one frame after the other."""
    sock = Socket()
    worker = Worker(sock, Slate())
    thread = threading.Thread(target=worker.send, args=(TEXT, b"thread"))
    sock.amid = thread.start
    worker.send(RESULTS, b"result")
    thread.join(PATIENCE)
    assert sock.kinds() == [(RESULTS, b"result"), (TEXT, b"thread")]


def test_sending_that_fails():
    """After a failure to send, the next one fails, too, instead of being taken for sent."""
    sock = Socket()
    worker = Worker(sock, Slate())
    for _ in range(2):
        sock.amid = _fail
        with pytest.raises(BrokenPipeError):
            worker.send(RESULTS, b"result")
