"""Memory for large frames: used again, but never under somebody's feet."""

import mmap
import threading

import numpy as np
import pytest

from aiopool._wire import memory
from aiopool._wire.memory import LARGE, MOST_KEPT, allocate, unused


@pytest.fixture(autouse=True)
def _nothing_kept():
    memory._kept.clear()
    yield
    memory._kept.clear()


def address(view):
    return np.frombuffer(view, np.uint8).ctypes.data


def test_small_memory_is_fresh_and_not_remembered():
    """Below the size of a large page memory is a bytearray of zeros of its own."""
    assert allocate(LARGE - 1) == bytes(LARGE - 1)
    assert unused() == 0


def test_large_memory_is_writable_and_of_the_size_asked_for():
    """A large piece can be written from its first byte to its last."""
    piece = allocate(LARGE + 5)
    piece[0] = piece[LARGE + 4] = 7
    assert (len(piece), piece[0], piece[-1], piece.readonly) == (LARGE + 5, 7, 7, False)


def test_memory_that_nobody_uses_is_given_out_again():
    """The same memory comes back once its last user has let go of it."""
    first = address(allocate(LARGE))
    assert unused() == LARGE
    assert address(allocate(LARGE)) == first


@pytest.mark.parametrize(
    "user",
    [
        lambda piece: piece,
        lambda piece: piece[5:6],
        lambda piece: np.frombuffer(piece, np.uint8)[3:4],
        lambda piece: memoryview(np.frombuffer(piece, np.uint8).reshape(2, -1)[1]),
        lambda piece: piece.obj,
    ],
    ids=["itself", "a slice", "an array", "a view of an array", "the map"],
)
def test_memory_in_use_is_not_given_out(user):
    """Whatever was made from a piece keeps it from being given out until it is gone."""
    piece = allocate(LARGE)
    first, held = address(piece), user(piece)
    del piece
    assert unused() == 0
    other = allocate(LARGE)
    assert address(other) != first
    del held, other
    assert unused() == 2 * LARGE


def test_memory_of_another_size():
    """A smaller piece may use memory up to twice its size, a larger one may not."""
    first = address(allocate(2 * LARGE))
    assert address(allocate(LARGE + 1)) == first
    assert len(allocate(LARGE + 1)) == LARGE + 1
    assert address(allocate(2 * LARGE + 1)) != first


def test_little_is_remembered():
    """However much was in use at once, only so much is kept when it is not."""
    pieces = [allocate(MOST_KEPT // 4) for _ in range(9)]
    assert len(pieces) == 9
    pieces.clear()
    assert unused() == MOST_KEPT
    allocate(2 * MOST_KEPT)
    assert unused() == 0


def test_no_memory():
    """A size that the system refuses is a MemoryError."""
    with pytest.raises(MemoryError):
        allocate(1 << 60)


def test_no_large_pages(monkeypatch):
    """Where there are no large pages memory is given out and used again all the same."""
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    first = address(allocate(LARGE))
    assert address(allocate(LARGE)) == first


def test_no_private_maps(monkeypatch):
    """Where maps cannot be private large memory is a bytearray too."""
    monkeypatch.delattr(mmap, "MAP_PRIVATE", raising=False)
    assert type(allocate(LARGE)) is bytearray


def test_threads_never_get_the_same_memory():
    """Of two threads that ask at the same time each has its piece for itself."""
    wrong = []

    def work(mark):
        for _ in range(300):
            piece = allocate(LARGE)
            piece[:8] = mark
            if piece[:8] != mark:
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(bytes([n]) * 8,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
