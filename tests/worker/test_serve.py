"""The serve loop of a worker, spoken to as its parent speaks to it.

Most tests run a `Worker` on a thread of this process, under a clock that only the calls move, so
that a call can look at its own worker (`lane`) and strike it as a signal would. What needs real
signals runs in a process of its own.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from aiopool._wire.failure import decode_failure
from aiopool._wire.framing import Decoder, ProtocolError, encode
from aiopool._wire.journal import Journal
from aiopool._wire.messages import (
    CALLS,
    ERROR,
    EXACT,
    INTERRUPTED,
    RESULTS,
    SCALARS,
    SKIPPED,
    STAR,
    VALUE,
    VALUES,
)
from aiopool._wire.pickling import dumps, loads, pack, seal, unpack
from aiopool._wire.slate import FINISHED, SENT, SINCE, SKIP_FROM, SKIP_TO, STARTED, TARGET, Slate
from aiopool._worker import serve
from aiopool._worker.serve import Worker
from aiopool.errors import NotTransferable, RemoteError
from tests import jobs
from tests.helpers import PATIENCE, ROOT, block_until

MICROSECOND = 1_000
MILLISECOND = 1_000_000

posix = pytest.mark.skipif(sys.platform == "win32", reason="interrupts are signals")

lane = None  # the one of the test that runs
journal = []  # what its calls have written

if sys.platform != "win32":
    import fcntl
    import termios


class Told(NamedTuple):
    """How one call ended."""

    seq: int
    kind: int
    value: object = None


class Parent:
    """The parent's end: numbers calls, sends groups, reads what the worker tells."""

    def __init__(self, sock, words):
        self.sock = sock
        self.words = words
        self.next = 1
        self.frames = []  # the segments of each frame that came
        self.resident = 0
        self.error = None  # what the worker ended by, if known
        self._decoder = Decoder()
        sock.settimeout(PATIENCE)

    def group(self, fn, items, mode=0, *, function=0, known=False):
        first = self.next
        items = list(items)
        self.next += len(items)
        load = dumps(items) if mode & SCALARS else [pack(item) for item in items]
        return first, function, None if known else dumps(fn), mode, load

    def send(self, *groups, forget=False):
        self.write(encode(CALLS, *seal((forget, list(groups)))))

    def write(self, pieces):
        self.sock.sendall(b"".join(map(bytes, pieces)))

    def told(self):
        """Read until all calls sent have been told of; how each of them ended, in order."""
        told = self._all_told()
        while len(told) < self.next - 1:
            if not self.read():
                raise AssertionError(f"the worker hung up after {told}: {self.error!r}")
            told = self._all_told()
        assert [one.seq for one in told] == list(range(1, self.next))
        return told

    def values(self):
        """Read as `told`; the values, all calls having returned."""
        told = self.told()
        assert {one.kind for one in told} <= {VALUE, VALUES}, told
        return [one.value for one in told]

    def run(self, fn, items, mode=0, **options):
        self.send(self.group(fn, items, mode, **options))
        return self.told()

    def read(self):
        """Read once; False at the end."""
        room = self._decoder.get_buffer()
        count = self.sock.recv_into(room)
        for frame in self._decoder.received(count):
            assert frame.kind == RESULTS
            segments, self.resident = loads(frame.body, frame.buffers)
            self.frames.append(segments)
        return bool(count)

    def waiting(self):
        """How many bytes have come that were not read."""
        count = array("i", [0])
        fcntl.ioctl(self.sock, termios.FIONREAD, count)
        return count[0]

    def segments(self):
        return [segment[:3] for segments in self.frames for segment in segments]

    def _all_told(self):
        return [
            one for segments in self.frames for segment in segments for one in _each_told(segment)
        ]


def _each_told(segment):
    first, count, _, kind, payload = segment
    if kind == VALUES:
        values = loads(payload)
        assert len(values) == count
        return [Told(first + place, kind, value) for place, value in enumerate(values)]
    assert count == 1 or kind == SKIPPED
    if kind == VALUE:
        return [Told(first, kind, unpack(payload))]
    if kind == ERROR:
        return [Told(first, kind, decode_failure(payload, loads))]
    assert payload is None
    return [Told(first + place, kind) for place in range(count)]


class Words(list):
    """Words of a slate that tell when one of them is stored."""

    def __init__(self):
        super().__init__([0] * 16)
        self.on_store = lambda word, value: None

    def __setitem__(self, word, value):
        super().__setitem__(word, value)
        self.on_store(word, value)


class Lane(Parent):
    """A worker on a thread of this process."""

    def __init__(self, *, measure=False):
        here, self.there = socket.socketpair()
        super().__init__(here, Words())
        self.space = memoryview(bytearray(64 * 1024))
        self.now = 1_000 * MILLISECOND
        self.worker = Worker(self.there, self, measure=measure)
        self._thread = threading.Thread(target=self._run, name="worker under test")
        self._thread.start()

    def strike(self, target):
        """Do as a signal would, meant for the call of that number."""
        self.words[TARGET] = target
        self.worker.on_interrupt(signal.SIGINT, None)

    def end(self):
        """Let the worker see the end and wait for it; what it raised."""
        self.sock.shutdown(socket.SHUT_WR)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.error

    def close(self):
        self.sock.close()
        self._thread.join(PATIENCE)
        self.there.close()

    def _run(self):
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - for the test to judge
            self.error = error
        finally:
            self.there.shutdown(socket.SHUT_WR)


@pytest.fixture
def make_lane(monkeypatch):
    """Give a function that makes the test's lane, under a clock of its own."""

    def make(**options):
        global lane
        lane = Lane(**options)
        return lane

    monkeypatch.setattr(serve, "monotonic_ns", lambda: lane.now)
    journal.clear()
    yield make
    lane.close()


@pytest.fixture(name="lane")
def _lane(make_lane):
    return make_lane()


# --- calls: they run in the worker's thread ---------------------------------------------------


def take(duration):
    """Let that many nanoseconds pass."""
    lane.now += duration
    return duration


def note(x):
    journal.append(x)
    return x


def take_and_fail(duration):
    take(duration)
    if duration > MILLISECOND:
        raise ValueError


def started_and_finished(_):
    journal.append((lane.words[STARTED], lane.words[FINISHED], lane.waiting()))


def note_and_fail(_):
    started_and_finished(_)
    raise ValueError


def skip_after_two(seq):
    journal.append(seq)
    if seq == 2:
        lane.words[SKIP_FROM], lane.words[SKIP_TO] = 3, 6


def be_struck_twice(seq):
    try:
        lane.strike(seq)
    finally:
        lane.strike(seq)
        journal.append("cleaned up")


def hand_in_at(seq, place):
    take(MICROSECOND)
    if seq == place:
        lane.strike(0)
        journal.append((lane.words[FINISHED], lane.waiting() > 0))
        lane.strike(0)
    take(MICROSECOND)
    return seq


def interrupt_at(seq, target):
    """Be interrupted in call number `seq` by a signal for call `target`."""
    current = lane.worker.current
    try:
        if current == seq:
            lane.strike(target)
        journal.append(current)
    finally:
        journal.append("end")
    return current


def be_stubborn(seq):
    try:
        lane.strike(seq)
    except BaseException:  # noqa: BLE001 - that is its stubbornness
        return "stubborn"


def raise_while_stopping(seq):
    try:
        lane.strike(seq)
    finally:
        raise ValueError("in finally")


class Counted:
    """Tells when it goes, and in which call that was."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return Counted, (self.name,)

    def __del__(self):
        journal.append((self.name, "freed", lane.worker.current))


def hold(thing):
    journal.append((thing.name, "called"))


def hold_and_fail(thing):
    hold(thing)
    raise ValueError(thing.name)


class StrikesAtUnpickling:
    def __reduce__(self):
        return _strike, ()


def _strike():
    lane.strike(lane.worker.current)


class StrikesAtPickling:
    def __reduce__(self):
        _strike()
        raise AssertionError("the interrupt hit nobody")


class StrikesAtTheThirdAttempt:
    """Cannot be pickled; the third one who tries, which is the diagnosis, is interrupted."""

    attempts = 0

    def __reduce__(self):
        StrikesAtTheThirdAttempt.attempts += 1
        if self.attempts >= 3:
            _strike()
        raise TypeError("cannot be pickled")


class PicklingExits:
    def __reduce__(self):
        raise SystemExit(3)


class UnpicklingExits:
    def __reduce__(self):
        return jobs.sys_exit, (3,)


class Undecided:
    """A callable that has no truth value."""

    def __call__(self, x):
        return x + 1

    def __bool__(self):
        raise ValueError("ambiguous")


def make(kind):
    return kind()


async def be_async(x):
    return x


SCRATCH = np.zeros(4)


def reuse_memory(x):
    SCRATCH[:] = x
    return SCRATCH


# --- coalescing -----------------------------------------------------------------------------


def test_results_of_short_calls_travel_together(lane):
    """Calls that take no time are told of in one frame and one segment."""
    lane.send(lane.group(jobs.inc, range(500), SCALARS))
    assert lane.values() == list(range(1, 501))
    assert lane.segments() == [(1, 500, 0)]
    block_until(lambda: lane.words[FINISHED] == 500)
    assert lane.words[STARTED] == 500


def test_finished_results_do_not_wait_long(lane):
    """Results are handed in once the oldest of them has waited for half a millisecond."""
    lane.send(lane.group(take, [200 * MICROSECOND] * 10, SCALARS))
    lane.told()
    spent = [sum(segment[2] for segment in segments) for segments in lane.frames]
    assert sum(spent) == 2_000 * MICROSECOND
    assert all(500 * MICROSECOND < one <= 700 * MICROSECOND for one in spent[:-1])


def test_a_long_result_is_told_apart(lane):
    """A result much longer than its neighbours has its own duration, and they have theirs."""
    durations = [MICROSECOND] * 10 + [20 * MILLISECOND] + [MICROSECOND] * 5
    lane.send(lane.group(take, durations, SCALARS))
    assert lane.values() == durations
    assert lane.segments() == [
        (1, 10, 10 * MICROSECOND),
        (11, 1, 20 * MILLISECOND),
        (12, 5, 5 * MICROSECOND),
    ]


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_long_call_that_fails_is_told_apart(lane, place):
    """The duration of a failed call is its own wherever it stands among others."""
    durations = [MICROSECOND] * 5
    durations[place] = 5 * MILLISECOND
    told = lane.run(take_and_fail, durations, SCALARS)
    assert [one.kind == ERROR for one in told] == [duration > MILLISECOND for duration in durations]
    assert (place + 1, 1, 5 * MILLISECOND) in lane.segments()
    assert sum(spent for _, _, spent in lane.segments()) == sum(durations)


def test_a_segment_tells_of_one_function(lane):
    """Calls of different functions are not told of together though one frame brought them."""
    lane.send(
        lane.group(take, [MICROSECOND] * 3, SCALARS, function=0),
        lane.group(jobs.inc, [1, 2], SCALARS, function=1),
        lane.group(take, [2 * MICROSECOND] * 2, SCALARS, function=0, known=True),
    )
    assert lane.values() == [1000, 1000, 1000, 2, 3, 2000, 2000]
    assert lane.segments() == [(1, 3, 3_000), (4, 2, 0), (6, 2, 4_000)]
    assert len(lane.frames) == 1


def noted(lane):
    """Give the calls whose results the parent finds in the lane's journal."""
    return [segment[0] for segment in Journal(lane).read()]


def note_what_is_noted(x):
    journal.append(noted(lane))
    return x


def note_what_is_noted_and_fail(x):
    note_what_is_noted(x)
    raise ValueError(x)


@pytest.mark.parametrize("mode", [EXACT, EXACT | SCALARS])
def test_exact_results_are_noted_one_by_one(lane, mode):
    """An exact result is in the journal before the next call starts, and is sent once."""
    lane.send(lane.group(note_what_is_noted, range(5), mode))
    block_until(lambda: lane.words[FINISHED] == 5)
    assert lane.values() == [0, 1, 2, 3, 4]
    assert journal == [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert lane.segments() == [(seq, 1, 0) for seq in range(1, 6)]
    assert len(lane.frames) == 1
    assert not noted(lane), "what has been sent is wiped"


def test_exact_failures_are_noted_one_by_one(lane):
    """An exact failure is in the journal before the next call starts too."""
    lane.run(note_what_is_noted_and_fail, range(3), EXACT)
    assert journal == [[], [1], [1, 2]]


def test_an_exact_result_too_large_to_note_is_sent(lane):
    """An exact result that the journal has no room for is sent before the next call starts."""
    lane.send(lane.group(large_then_note, [70_000, 1], EXACT))
    lane.told()
    assert journal == [0, 1]
    assert len(lane.frames) == 2


def large_then_note(size):
    journal.append(lane.words[FINISHED])
    return bytes(size)


def test_results_are_held_back_while_short_calls_go_on(lane):
    """Without exactness the slate says finished only of what has been sent."""
    lane.run(started_and_finished, [()] * 3)
    assert journal == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]
    block_until(lambda: lane.words[FINISHED] == 3)


# --- modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [0, EXACT])
@pytest.mark.parametrize("scalars", [0, SCALARS])
def test_modes(lane, exact, scalars):
    """Arguments arrive as sent: one or spread, in one pickle or each in its own."""
    lane.send(
        lane.group(jobs.echo, [1, "two", None], scalars | exact, function=0),
        lane.group(jobs.add, [(1, 2), ("a", "b")], scalars | exact | STAR, function=1),
        lane.group(jobs.echo, [(1, 2)], scalars | exact, function=0, known=True),
        lane.group(time.monotonic, [()], exact | STAR, function=2),
    )
    assert lane.values()[:-1] == [1, "two", None, 3, "ab", (1, 2)]


def test_values_of_all_kinds_keep_their_order(lane):
    """Scalars, containers, arrays and functions come back in the order of their calls."""
    values = [1, [2], "three", None, {"four": 4}, 5.0, (6,), True, b"8" * 100_000, bytearray(b"9")]
    lane.send(lane.group(jobs.echo, [*values, np.arange(100_000), lambda: 12]))
    *back, array, function = lane.values()
    assert back == values
    assert list(map(type, back)) == list(map(type, values))
    assert array.tolist() == list(range(100_000))
    assert function() == 12


def test_very_many_arrays(lane):
    """A list of more arrays than a frame can hold buffers comes and goes."""
    lane.send(lane.group(jobs.echo, [[np.full(1, i) for i in range(40_000)]]))
    assert [int(array[0]) for array in lane.values()[0]] == list(range(40_000))


def test_values_that_share_memory(lane):
    """A value is what the call returned, though a later call reuses the memory it lies in."""
    lane.send(lane.group(reuse_memory, range(5), SCALARS))
    assert [value.tolist() for value in lane.values()] == [[float(i)] * 4 for i in range(5)]


def test_a_callable_without_a_truth_value(lane):
    """A callable that cannot be tested for truth serves all calls of its group."""
    lane.send(lane.group(Undecided(), range(3), SCALARS))
    assert lane.values() == [1, 2, 3]


# --- functions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pause", "looks"), [(0, 10), (50_000, 10), (100_000, 0), (MILLISECOND, 0)]
)
def test_a_worker_stays_awake_while_calls_come_at_once(lane, monkeypatch, pause, looks):
    """It looks for more calls for a tenth of a millisecond, if the last ones came that soon."""
    monkeypatch.setattr(serve, "give_way", lambda: journal.append(take(10_000)))
    lane.words[SENT] = 1
    lane.run(take, [1])
    block_until(lambda: lane.worker._sent == lane.now)
    lane.now += pause
    lane.words[SENT] = 2
    lane.run(take, [1])
    assert lane.end() is None
    assert len(journal) == looks


def test_a_worker_that_stays_awake_sees_what_is_sent(lane, monkeypatch):
    """It goes to read the socket as soon as the slate tells of another frame."""

    def give_way():
        journal.append(take(10_000))
        if len(journal) == 3:
            lane.words[SENT] = 99

    monkeypatch.setattr(serve, "give_way", give_way)
    for sent in (1, 2):
        lane.words[SENT] = sent
        lane.run(jobs.inc, [1])
    lane.run(jobs.inc, [1])
    assert len(journal) == 3


def test_functions_are_remembered(lane):
    """A function that was sent once needs no pickle any more, whatever came between."""
    lane.send(lane.group(jobs.inc, [1], function=5))
    lane.send(lane.group(jobs.square, [3], function=6))
    lane.send(lane.group(None, [2], function=5, known=True))
    assert lane.values() == [2, 9, 3]


class UnpickledOnce:
    def __reduce__(self):
        return _unpickle_function, ()


def _unpickle_function():
    journal.append("unpickled")
    return jobs.inc


def test_a_function_is_unpickled_once(lane):
    """However many calls and groups a function has, it is unpickled by the first of them."""
    lane.send(lane.group(UnpickledOnce(), [1, 2]))
    lane.send(lane.group(None, [3], known=True))
    assert lane.values() == [2, 3, 4]
    assert journal == ["unpickled"]


def test_functions_are_forgotten(lane):
    """After the order to forget a number means nothing until a function is sent with it again."""
    lane.send(lane.group(jobs.inc, [1]))
    lane.send(lane.group(jobs.square, [3], function=1), forget=True)
    lane.send(lane.group(None, [1], function=0, known=True))
    lane.send(lane.group(jobs.echo, ["new"], function=0))
    kinds = [one.kind for one in lane.told()]
    assert kinds == [VALUES, VALUES, ERROR, VALUES]
    assert lane.told()[3].value == "new"


def test_a_function_that_does_not_unpickle_fails_its_calls(lane):
    """Every call of such a function fails and the worker serves on."""
    first, number, _, mode, load = lane.group(None, [1, 2])
    code = dumps(jobs.UnpickleRaises())
    lane.send((first, number, code, mode, load), lane.group(jobs.inc, [1], function=1))
    told = lane.told()
    assert [one.kind for one in told] == [ERROR, ERROR, VALUES]
    assert str(told[0].value) == "cannot be unpickled"


# --- failures -------------------------------------------------------------------------------


def test_errors_cost_their_own_call_only(lane):
    """Calls that raise are told of one by one, among those that returned."""
    told = lane.run(jobs.fail_if_odd, range(6), SCALARS)
    assert [one.kind for one in told] == [VALUES, ERROR] * 3
    assert [one.value for one in told[::2]] == [0, 2, 4]
    for one in told[1::2]:
        assert type(one.value) is ValueError
        assert one.value.args == (one.seq - 1,)


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, BaseException]
)
def test_lethal_exceptions_come_as_remote_errors(lane, kind):
    """What would end a program ends a call, and the worker serves on."""
    told = lane.run(jobs.raise_type, [(kind, "why"), (ValueError,)], STAR)
    assert type(told[0].value) is RemoteError
    assert told[0].value.type_name == kind.__name__
    assert type(told[1].value) is ValueError


def test_an_argument_that_does_not_unpickle_fails_its_call(lane):
    """Whatever is raised while an argument is unpickled is that call's failure."""
    told = lane.run(jobs.echo, [[1], jobs.UnpickleRaises(), UnpicklingExits(), [4]])
    assert [one.kind for one in told] == [VALUE, ERROR, ERROR, VALUE]
    assert type(told[1].value) is RuntimeError
    assert told[2].value.type_name == "SystemExit"


@pytest.mark.parametrize("kind", [threading.Lock, jobs.PickleRaises, PicklingExits])
def test_a_result_that_cannot_be_pickled(lane, kind):
    """The call of a result that cannot be pickled fails with what the result is and whose."""
    told = lane.run(make, [dict, kind, list])
    assert [one.kind for one in told] == [VALUE, ERROR, VALUE]
    error = told[1].value
    assert type(error) is NotTransferable
    assert error.what == "the result of make()"


def test_a_coroutine_as_a_result(lane):
    """A call that returns a coroutine fails without a warning that nobody awaited it."""
    (told,) = lane.run(be_async, [1])
    assert type(told.value) is NotTransferable


# --- skipping -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, SCALARS, EXACT, SCALARS | EXACT])
def test_a_skipped_call_never_runs(lane, mode):
    """Calls in the range to be skipped are reported as skipped and not run."""
    lane.words[SKIP_TO] = 5
    lane.words[SKIP_FROM] = 3
    told = lane.run(note, range(1, 8), mode)
    assert [one.kind for one in told] == [VALUES] * 2 + [SKIPPED] * 2 + [VALUES] * 3
    assert journal == [1, 2, 5, 6, 7]
    block_until(lambda: lane.words[FINISHED] == 7)


def test_all_calls_skipped(lane):
    """A batch of which nothing is to run is reported at once."""
    lane.words[SKIP_TO] = 4
    told = lane.run(note, range(3), SCALARS)
    assert [one.kind for one in told] == [SKIPPED] * 3
    assert journal == []


def test_calls_taken_back_while_one_runs(lane):
    """The range is looked at before every call, so it may be set while one runs."""
    told = lane.run(skip_after_two, range(1, 6), SCALARS)
    assert [one.kind for one in told] == [VALUES] * 2 + [SKIPPED] * 3
    assert journal == [1, 2]


def test_a_call_is_announced_before_it_looks_whether_to_skip(lane):
    """A parent that sets the range and then finds the call not started can be sure of it."""
    order = []

    class Watched(Words):
        def __getitem__(self, word):
            order.append(("load", word))
            return super().__getitem__(word)

    words = Watched()
    words.on_store = lambda word, value: order.append(("store", word))
    lane.worker._words = words
    lane.run(note, [1], SCALARS)
    stored = order.index(("store", STARTED))
    assert stored < order.index(("load", SKIP_FROM))
    assert order.index(("store", SINCE)) < stored


# --- interrupts -----------------------------------------------------------------------------


def test_an_interrupt_hits_its_target(lane):
    """The call an interrupt is meant for is stopped, its cleanup runs, and the others return."""
    told = lane.run(interrupt_at, [(3, 3)] * 5, SCALARS | STAR)
    assert [one.kind for one in told] == [VALUES, VALUES, INTERRUPTED, VALUES, VALUES]
    assert journal == [1, "end", 2, "end", "end", 4, "end", 5, "end"]


@pytest.mark.parametrize("target", [0, 2, 4])
def test_an_interrupt_for_another_call_hits_nobody(lane, target):
    """A signal that comes too late, too early or from a terminal leaves the running call alone."""
    lane.send(lane.group(interrupt_at, [(3, target)] * 3, SCALARS | STAR))
    assert lane.values() == [1, 2, 3]


def test_an_interrupt_between_calls_hits_nobody(lane):
    """A signal for a call that has ended does nothing while none runs."""
    lane.send(lane.group(jobs.inc, [1, 2], SCALARS))
    lane.told()
    lane.strike(2)
    lane.strike(0)
    lane.send(lane.group(jobs.inc, [3], SCALARS))
    assert lane.values() == [2, 3, 4]


def test_a_call_is_interrupted_once(lane):
    """A second signal for the same call does not disturb its cleanup."""
    (told,) = lane.run(be_struck_twice, [1])
    assert told.kind == INTERRUPTED
    assert journal == ["cleaned up"]


def test_an_interrupt_between_announcement_and_start(lane):
    """A signal for a call the slate calls started stops it though it has hardly begun."""

    def strike(word, value):
        if (word, value) == (STARTED, 2):
            lane.words[TARGET] = 2
            lane.worker.on_interrupt(signal.SIGINT, None)

    lane.words.on_store = strike
    told = lane.run(note, [1, 2, 3], SCALARS)
    assert [one.kind for one in told] == [VALUES, INTERRUPTED, VALUES]
    assert journal == [1, 3]


@pytest.mark.parametrize("moment", [StrikesAtUnpickling, StrikesAtPickling])
def test_an_interrupt_outside_the_function(lane, moment):
    """Unpickling the argument and pickling the result belong to the call."""
    fn = jobs.echo if moment is StrikesAtUnpickling else make
    item = moment() if moment is StrikesAtUnpickling else moment
    told = lane.run(fn, [item, tuple])
    assert told[0].kind == INTERRUPTED
    assert told[1].kind == VALUE


def test_an_interrupt_during_the_diagnosis(lane):
    """A call is stopped also while it is found out why its result cannot be pickled."""
    StrikesAtTheThirdAttempt.attempts = 0
    told = lane.run(make, [StrikesAtTheThirdAttempt, tuple])
    assert [one.kind for one in told] == [INTERRUPTED, VALUE]


def test_an_interrupt_as_a_failure_is_handled(lane):
    """A call that is struck while its failure is being noted is stopped like any other."""

    class Exposed(Worker):
        @property
        def current(self):
            return vars(self).get("current", 0)

        @current.setter
        def current(self, seq):
            if seq == 0 and isinstance(sys.exc_info()[1], NotTransferable):
                lane.strike(self.current)
            vars(self)["current"] = seq

    lane.worker.__class__ = Exposed
    told = lane.run(make, [threading.Lock, tuple])
    assert [one.kind for one in told] == [INTERRUPTED, VALUE]


def test_a_call_that_swallows_the_interrupt_has_its_result(lane):
    """What a call returns in spite of the interrupt is its value."""
    (told,) = lane.run(be_stubborn, [1])
    assert told == (1, VALUES, "stubborn")


def test_a_call_that_raises_in_its_cleanup(lane):
    """What a call raises in place of the interrupt is its failure."""
    (told,) = lane.run(raise_while_stopping, [1])
    assert type(told.value) is ValueError


def test_an_untargeted_interrupt_hands_in_what_is_finished(lane):
    """Finished results are sent from the middle of a running call, once."""
    lane.send(lane.group(hand_in_at, [(seq, 4) for seq in range(1, 7)], SCALARS | STAR))
    block_until(lambda: lane.words[FINISHED] == 6)
    assert lane.values() == [1, 2, 3, 4, 5, 6]
    assert journal == [(3, True)]
    assert [(first, count) for first, count, _ in lane.segments()] == [(1, 3), (4, 3)]


def test_durations_after_an_untargeted_interrupt(lane):
    """Handing in results early does not change what is said of how long calls took."""
    lane.run(hand_in_at, [(seq, 3) for seq in range(1, 5)], SCALARS | STAR)
    assert lane.segments() == [(1, 2, 4_000), (3, 2, 4_000)]


def test_an_interrupted_call_tells_what_was_finished_before(lane):
    """The result of an interrupted call follows those before it in order."""
    told = lane.run(interrupt_at, [(2, 2)] * 2, EXACT | STAR)
    assert [one.kind for one in told] == [VALUES, INTERRUPTED]


# --- what is left of a call -----------------------------------------------------------------


@pytest.mark.parametrize("fn", [hold, hold_and_fail])
@pytest.mark.parametrize("mode", [0, EXACT])
def test_an_argument_is_freed_before_the_next_call(lane, fn, mode):
    """An argument goes when its call is over, and that is no call's time."""
    lane.run(fn, [Counted("a"), Counted("b")], mode)
    calls = [entry[:2] for entry in journal]
    between = calls[calls.index(("a", "called")) : calls.index(("b", "called"))]
    assert ("a", "freed") in between
    assert {entry[2] for entry in journal if entry[1] == "freed"} == {0}


def test_an_interrupt_that_comes_as_an_argument_is_freed(lane):
    """What runs when an argument is freed belongs to no call, so no interrupt hits it."""

    class Striking:
        def __reduce__(self):
            return _make_striking, ()

    lane.send(lane.group(jobs.length, [Striking(), Striking()]))
    assert lane.values() == [7, 7]
    assert journal == ["struck", "struck"]


class StrikesWhenFreed:
    def __len__(self):
        return 7

    def __del__(self):
        lane.strike(lane.words[STARTED])
        journal.append("struck")


def _make_striking():
    return StrikesWhenFreed()


# --- beginning and end ----------------------------------------------------------------------


def test_the_end_of_the_stream_ends_the_loop(lane):
    """A worker whose parent has closed its end returns."""
    lane.send(lane.group(jobs.inc, [1]))
    assert lane.values() == [2]
    assert lane.end() is None


def test_the_end_within_a_frame_ends_the_loop(lane):
    """A stream that ends in the middle of a frame ends the loop as any other."""
    lane.sock.sendall(b"".join(encode(CALLS, b"x" * 100))[:50])
    assert lane.end() is None


def test_garbage_ends_the_loop(lane):
    """A parent that speaks another language is not listened to any further."""
    lane.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert type(lane.end()) is ProtocolError


def test_batches_wait_in_the_socket(lane):
    """Batches that came together are served one after another."""
    groups = [lane.group(jobs.inc, [n, n], SCALARS) for n in range(50)]
    lane.write([piece for group in groups for piece in encode(CALLS, *seal((False, [group])))])
    assert lane.values() == [n + 1 for n in range(50) for _ in range(2)]
    assert len(lane.frames) == 50


@pytest.mark.parametrize("measure", [True, False])
def test_memory_is_told_if_asked(make_lane, measure):
    """The memory in use comes with the results where it is measured, in bytes, else zero."""
    lane = make_lane(measure=measure)
    lane.run(jobs.inc, [1], SCALARS)
    assert (lane.resident > 1 << 20) is measure
    assert measure or lane.resident == 0


def test_a_call_is_not_charged_for_the_sending_of_results(make_lane, monkeypatch):
    """A call begins when the results before it have been sent, however long that took."""
    lane = make_lane()
    monkeypatch.setattr(serve, "monotonic_ns", time.monotonic_ns)
    lane.send(lane.group(make_and_see, [8 << 20, 0], SCALARS | EXACT))
    block_until(lane.waiting)
    before_reading = time.monotonic_ns()
    _, since = lane.values()
    assert since >= before_reading


def make_and_see(size):
    return bytes(size) if size else lane.words[SINCE]


# --- real signals ---------------------------------------------------------------------------


PROCESS = """
import signal, socket, sys
from aiopool._wire.slate import Slate
from aiopool._worker import serve
if sys.argv[3:]:
    serve.monotonic_ns = lambda: 0
worker = serve.Worker(socket.socket(fileno=int(sys.argv[1])), Slate.attach(int(sys.argv[2])))
signal.signal(signal.SIGINT, worker.on_interrupt)
print("ready", flush=True)
worker.run()
"""


class Process(Parent):
    """A worker in a process of its own; its clock may stand still, so that all calls are short."""

    def __init__(self, *options):
        here, there = socket.socketpair()
        self.slate, slate_fd = Slate.create()
        super().__init__(here, self.slate.words)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(there.fileno()), str(slate_fd), *options],
            cwd=ROOT,
            pass_fds=[there.fileno(), slate_fd],
            stdout=subprocess.PIPE,
        )
        there.close()
        os.close(slate_fd)
        assert self.process.stdout.readline() == b"ready\n"

    def interrupt(self, target):
        self.words[TARGET] = target
        self.process.send_signal(signal.SIGINT)

    def close(self):
        self.sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        self.process.kill()
        self.process.communicate()
        self.slate.close()


@pytest.fixture
def process(request):
    process = Process(*getattr(request, "param", ()))
    yield process
    process.close()


@posix
@pytest.mark.parametrize("fn", [jobs.sleep_for, jobs.spin])
def test_a_signal_stops_the_running_call(process, fn):
    """A call that sleeps or is busy is stopped by a signal, and the next ones run."""
    process.send(process.group(fn, [0, 1000, 0]))
    block_until(lambda: process.words[STARTED] == 2)
    # A signal that finds the call announced and not begun would be lost: see the test of that.
    block_until(lambda: _strike_until_told(process))
    assert [one.kind for one in process.told()] == [VALUES, INTERRUPTED, VALUES]


def _strike_until_told(process):
    process.interrupt(2)
    return process.words[STARTED] == 3


@posix
def test_cleanup_runs_in_a_process(process, gate, tmp_path):
    """The `finally` of a stopped call has run when the call is told of."""
    process.send(process.group(jobs.gate_with_cleanup, [(*gate.paths, str(tmp_path / "x"))], STAR))
    block_until(gate.is_entered)
    process.interrupt(1)
    assert [one.kind for one in process.told()] == [INTERRUPTED]
    assert (tmp_path / "x").exists()


FRAGILE = """
import sys, time
if hasattr(sys, "fragile"):
    raise ImportError("cannot load module more than once per process")
sys.fragile = True
def last():
    open({path!r}, "w").close()
    while True:
        time.sleep(0.01)
"""
PLAINLY = "last()"
IN_A_CLASS = """
class Field:
    def __set_name__(self, owner, name):
        last()
class Record:
    field = Field()
"""


@posix
@pytest.mark.parametrize(
    "code",
    [b"cfragile\nfunction\n.", dumps(lambda _: __import__("fragile"))],
    ids=["by unpickling", "by the call"],
)
@pytest.mark.parametrize("end", [PLAINLY, IN_A_CLASS], ids=["plainly", "in a class"])
def test_an_interrupted_import_ends_the_worker(process, tmp_path, code, end):
    """A worker in which an import was interrupted serves no more calls, as many would fail."""
    imported = tmp_path / "imported"
    (tmp_path / "fragile.py").write_text(FRAGILE.format(path=str(imported)) + end)
    process.run(exec, [f"import sys; sys.path.append({str(tmp_path)!r})"])
    first, number, _, mode, load = process.group(None, [1, 2], SCALARS, function=1)
    process.send((first, number, code, mode, load))
    block_until(imported.exists)
    process.interrupt(first)
    while process.read():
        assert ERROR not in {one.kind for one in process._all_told()}
    assert process._all_told()[-1] == (first, INTERRUPTED, None)


@posix
def test_signals_to_an_idle_worker(process):
    """Ctrl-C in the terminal, any number of times, does not disturb a worker that waits."""
    for _ in range(5):
        process.interrupt(0)
    assert [one.value for one in process.run(jobs.inc, [1], SCALARS)] == [2]


@posix
def test_a_late_signal_hits_nobody(process, gate):
    """A signal meant for a call that has ended leaves the next one alone."""
    process.send(process.group(jobs.gate, [gate.paths], STAR, function=1))
    block_until(gate.is_entered)
    process.send(process.group(jobs.inc, [1], SCALARS, function=2))
    process.interrupt(7)
    gate.open()
    assert [one.kind for one in process.told()] == [VALUES, VALUES]


@posix
@pytest.mark.parametrize("process", [("without a clock",)], indirect=True)
@pytest.mark.parametrize("target", [0, 2])
def test_a_signal_while_results_are_handed_in(process, gate, target):
    """A signal that comes while another one's handler is sending does not break the stream."""
    size = 8 << 20
    process.send(
        process.group(jobs.make_bytes, [size], SCALARS, function=1),
        process.group(jobs.gate, [gate.paths], STAR, function=2),
    )
    block_until(gate.is_entered)
    process.interrupt(0)
    block_until(process.waiting, "the results")
    process.interrupt(target)
    # If it should reach the handler only later, no harm is done.
    block_until(lambda: not _pending(process.process.pid, signal.SIGINT))
    while not process.frames:
        assert process.read()
    block_until(lambda: process.words[FINISHED] >= 1)
    if target == 0:
        gate.open()
    told = process.told()
    assert told[0].value == bytes(size)
    assert told[1].kind == (INTERRUPTED if target == 2 else VALUES)


def _pending(pid, number):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = dict(line.split(":\t") for line in lines if ":\t" in line)
    return (int(masks["SigPnd"], 16) | int(masks["ShdPnd"], 16)) >> (number - 1) & 1


@posix
@pytest.mark.parametrize("mode", [SCALARS, SCALARS | EXACT])
def test_a_storm_of_signals(process, mode):
    """Whatever signals come and when, every call is told of once and in order."""
    process.run(jobs.spin, [0])  # so that no signal meets the import of the function
    durations = ([0.0005] * 19 + [1000]) * 15
    process.send(process.group(jobs.spin, durations, mode))
    signals = 0
    while process.words[FINISHED] < len(durations) + 1:
        process.interrupt(process.words[STARTED] + (0, 0, 1, 2)[signals % 4])
        signals += 1
        if process.waiting():
            process.read()
    told = process.told()[1:]
    assert {one.kind for one in told} <= {VALUES, INTERRUPTED}, told
    assert {one.kind for one in told[19::20]} == {INTERRUPTED}
