"""Results that are safe before they are sent."""

import os

import pytest

from aiopool._wire.journal import Journal
from aiopool._wire.messages import ERROR, INTERRUPTED, VALUE, VALUES
from aiopool._wire.pickling import dumps, pack
from aiopool._wire.slate import CYCLE, NOTED, Slate

SEGMENTS = [
    (1, 1, 5, VALUES, dumps([1])),
    (2, 1, 7, VALUE, (dumps((1, "two")), ())),
    (3, 1, 0, INTERRUPTED, None),
    (4, 1, 2**40, ERROR, ("text", ((b"pickle", (None, None, False)),))),
]


@pytest.fixture
def ends():
    """Give the worker's and the parent's journal over the same memory, and its words."""
    slate, fd = Slate.create()
    there = Slate.attach(os.dup(fd))
    os.close(fd)
    journals = Journal(there), Journal(slate)
    yield *journals, slate.words
    del journals
    slate.close()
    there.close()


def test_what_is_noted_is_read(ends):
    """The other side reads every kind of segment in the order it was noted."""
    worker, parent, _ = ends
    assert all(worker.note(segment) for segment in SEGMENTS)
    *first, stopped, last = parent.read()
    assert [*first, last] == [*SEGMENTS[:2], SEGMENTS[3]]
    assert stopped[:4] == SEGMENTS[2][:4]


def test_an_empty_journal(ends):
    """There is nothing to read before anything was noted."""
    _, parent, _ = ends
    assert parent.read() == []


def test_a_wiped_journal(ends):
    """What was wiped is gone, and its place is used again."""
    worker, parent, words = ends
    worker.note(SEGMENTS[0])
    worker.wipe()
    assert parent.read() == []
    assert words[NOTED] == 0
    worker.note(SEGMENTS[1])
    assert parent.read() == [SEGMENTS[1]]


def test_wiping_nothing_is_no_cycle(ends):
    """A wipe of an empty journal is not counted, so it spoils nobody's reading."""
    worker, _, words = ends
    worker.wipe()
    assert words[CYCLE] == 0


def test_what_does_not_fit_is_not_noted(ends):
    """A result that is too large is refused and leaves what was noted as it was."""
    worker, parent, _ = ends
    worker.note(SEGMENTS[0])
    assert not worker.note((2, 1, 0, VALUES, bytes(70_000)))
    assert parent.read() == SEGMENTS[:1]


def test_a_full_journal(ends):
    """Notes are taken until the room is used up and no further."""
    worker, parent, _ = ends
    taken = 0
    while worker.note((taken, 1, 0, VALUES, bytes(1_000))):
        taken += 1
    assert 60 <= taken <= 65
    assert [segment[0] for segment in parent.read()] == list(range(taken))


def test_buffers_are_not_noted(ends):
    """A value with memory of its own beside its pickle is refused."""
    numpy = pytest.importorskip("numpy")
    worker, parent, _ = ends
    assert not worker.note((1, 1, 0, VALUE, pack(numpy.zeros(10_000))))
    assert not worker.note((1, 1, 0, VALUE, pack((bytes(40_000),))))
    assert parent.read() == []


def test_a_reader_that_is_overtaken_takes_nothing(ends):
    """Notes that are wiped while they are read are not taken for good."""
    worker, _, words = ends
    worker.note(SEGMENTS[0])

    class Words:
        """Words of a worker that wipes between two looks."""

        def __getitem__(self, word):
            value = words[word]
            if word == NOTED:
                worker.wipe()
            return value

    class View:
        space = worker._space
        words = Words()

    assert Journal(View()).read() == []
