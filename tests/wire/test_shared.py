"""Handles of shared objects: what their pickles give, and when the object goes."""

import copy
import errno
import gc
import os
import pickle
import threading
import weakref
from contextlib import nullcontext

import numpy as np
import pytest

from aiopool._wire import segment, shared
from aiopool._wire.shared import attach, share, sweep
from aiopool.errors import NotTransferable
from tests import jobs

OBJECTS = {
    "array": np.arange(10_000.0).reshape(100, 100),
    "small array": np.arange(3),
    "array of no elements": np.zeros((0, 3)),
    "array with gaps": np.arange(100)[::7],
    "array in columns": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "many arrays": [np.full(n, n) for n in range(100)],
    "bytes": b"x" * 100_000,
    "bytearray": bytearray(100_000),
    "dictionary": {"a": [1, 2, {"b": None}]},
    "lambda": lambda x: x + 1,
    "nothing": None,
}


@pytest.fixture
def no_room(monkeypatch):
    """Let nothing be placed in shared memory."""

    def refuse(pieces):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared, "Segment", refuse)


def opened(handle):
    """Give what a pickle of the handle gives."""
    return pickle.loads(pickle.dumps(handle))


def alike(one, other):
    if callable(one):
        return one(1) == other(1)
    if isinstance(one, list):
        return all(map(np.array_equal, one, other))
    return type(one) is type(other) and np.array_equal(one, other)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_pickle_of_a_handle_gives_the_object(name, protocol):
    """A handle pickled by hand, by any protocol, unpickles to an object like the one shared."""
    handle = share(OBJECTS[name])
    assert alike(OBJECTS[name], pickle.loads(pickle.dumps(handle, protocol)))


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_without_room(name, protocol, no_room):
    """What does not fit in shared memory is carried by its pickle, after a warning."""
    with pytest.warns(
        RuntimeWarning, match="does not fit in shared memory.*No space left"
    ) as found:
        handle = share(OBJECTS[name])
    assert len(found) == 1
    assert alike(OBJECTS[name], pickle.loads(pickle.dumps(handle, protocol)))
    assert alike(OBJECTS[name], handle.open())


@pytest.mark.parametrize("room", [True, False], ids=["placed", "carried"])
@pytest.mark.parametrize(
    "name", [name for name in OBJECTS if "array" in name and "byte" not in name]
)
def test_arrays_are_read_only(name, room, request):
    """No array that comes out of a handle can be written to, or be made so."""
    if not room:
        request.getfixturevalue("no_room")
    with nullcontext() if room else pytest.warns(RuntimeWarning):
        handle = share(OBJECTS[name])
    array = opened(handle)
    array = array[-1] if isinstance(array, list) else array
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 1


def test_an_array_cannot_be_made_writable():
    """The memory itself refuses to be written to."""
    handle = share(OBJECTS["array"])
    with pytest.raises(ValueError, match="WRITEABLE"):
        opened(handle).flags.writeable = True


def test_a_handle_holds_what_was_shared_then():
    """Changing the object after it was shared changes nothing of what calls receive."""
    array = np.zeros(10_000)
    handle = share(array)
    array[0] = 1
    assert opened(handle)[0] == 0


def test_a_process_opens_an_object_once():
    """Every pickle of a handle gives the same object in one process."""
    handle = share(OBJECTS["array"])
    assert opened(handle) is opened([handle, handle])[1] is handle.open()


def test_sharing_a_handle_gives_it_back():
    """A handle is not placed a second time."""
    handle = share([1])
    assert share(handle) is handle


def test_a_handle_says_what_it_is():
    """A handle names the type behind it, and so does the error of who takes it for the object."""
    handle = share(OBJECTS["array"])
    assert repr(handle) == "<Shared ndarray>"
    with pytest.raises(AttributeError, match=r"Shared ndarray.*'shape'.*what calls receive"):
        handle.shape  # noqa: B018 - the access is the test


def test_a_copy_of_a_handle_is_the_object():
    """The copy module gives the object as it is in this process, for want of another meaning."""
    handle = share([1])
    assert copy.copy(handle) == [1]


@pytest.mark.parametrize("room", [True, False], ids=["placed", "carried"])
def test_what_cannot_be_pickled(room, request):
    """An object that cannot be pickled is refused at once, naming the part that cannot."""
    if not room:
        request.getfixturevalue("no_room")
    with pytest.raises(NotTransferable, match=r"the object to share.*obj\['lock'\]"):
        share({"lock": threading.Lock()})
    with pytest.raises(NotTransferable, match="cannot be pickled"):
        share(jobs.PickleRaises())


def test_an_object_goes_with_its_handle():
    """When the handle is gone this process lets go of the object, and its pickle opens nothing."""
    handle = share(OBJECTS["array"])
    data, gone = pickle.dumps(handle), weakref.ref(handle.open())
    del handle
    gc.collect()
    assert gone() is None
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


def test_what_was_opened_outlives_its_handle():
    """An object that is in use stays whole when the handle goes."""
    handle = share(OBJECTS["array"])
    array = opened(handle)
    del handle
    assert np.array_equal(array, OBJECTS["array"])


def test_watchers_are_told(monkeypatch):
    """Whoever watches is told of each handle that goes."""
    told = []
    monkeypatch.setattr(shared, "watchers", {lambda: told.append(1)})
    handles = [share(n) for n in range(3)]
    assert not told
    del handles
    assert told == [1, 1, 1]


def test_sweeping_lets_go_of_what_is_gone():
    """A process that did not make the handle lets go of the object when it sweeps."""
    placed = segment.Segment([memoryview(pickle.dumps([1]))])
    other = share([2])
    value = attach(*placed.address)
    assert value == [1]
    sweep()
    assert attach(*placed.address) is value
    placed.retire()
    assert other.open() == [2]
    sweep()
    assert placed.address not in shared._attached
    assert other._address in shared._attached


def test_many_handles_leave_nothing():
    """A thousand objects shared and dropped leave neither descriptors nor objects."""
    before = len(os.listdir("/proc/self/fd")), len(shared._attached)  # noqa: PTH208 - counted
    for n in range(1000):
        assert share([n]).open() == [n]
    assert (len(os.listdir("/proc/self/fd")), len(shared._attached)) == before  # noqa: PTH208
