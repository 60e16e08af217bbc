"""What is sent of a batch, what is refused, and what waits."""

import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._backends import parcels
from aiopool._backends.base import Function
from aiopool._backends.parcels import can_pickle, pack_argument, pack_function, ready_parcel
from aiopool._core.estimate import Estimate
from aiopool._core.options import Settings
from aiopool._core.workload import Batch, Workload
from aiopool._wire import hooks
from aiopool._wire.messages import EXACT, SCALARS, STAR
from aiopool._wire.pickling import Unhurried, dumps, loads, pack, unpack
from aiopool.errors import NotTransferable
from tests import jobs

HEAVY = parcels._HEAVY


@pytest.fixture(autouse=True, scope="module")
def _time_stands_still():
    """Have no batch cut because this machine is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcels, "TURN", math.inf)
        yield


def make_batch(items, *, star=False, exact=False, first=0):
    cost = Estimate()
    function = Function(jobs.echo, "echo", cost, dumps(jobs.echo))
    workload = Workload(
        function,
        Settings(),
        name="echo",
        venue="process",
        sink=None,
        now=0.0,
        cost=cost,
        star=star,
        exact=exact,
    )
    return Batch(workload, range(first, first + len(items)), items)


def items_of(parcel):
    """Unpickle what a worker would."""
    if parcel.mode & SCALARS:
        return loads(parcel.load)
    return [unpack(packed) for packed in parcel.load]


def check(batch, encoded):
    """Every call is sent, refused or left, once and in order; give what is sent of each."""
    sent, refused, rest = encoded
    assert [list(map(id, one.batch.items)) for one in sent] == [
        [id(batch.items[index - batch.indices[0]]) for index in one.batch.indices] for one in sent
    ]
    told = [index for one in [*sent, *refused] for index in one.batch.indices]
    left = list(rest.indices) if rest else []
    assert sorted(told) + left == list(batch.indices)
    assert [one.batch.indices[0] for one in sent] == sorted(one.batch.indices[0] for one in sent)
    assert all(len(one.batch) == 1 for one in refused)
    for one in sent:
        assert len(one.batch) > 0
        assert len(items_of(one)) == len(one.batch)
        assert one.code == batch.workload.function.code
        assert one.batch.workload is batch.workload
    return [items_of(one) for one in sent]


def encode(batch):
    """Give parcels, refusals and rest as encoded on the loop, or in a thread what has to be."""
    encoded = parcels.encode(batch)
    return (parcels.encode_in_time(batch) if encoded.unhurried else encoded)[:3]


def refused_indices(encoded):
    return [index for one in encoded[1] for index in one.batch.indices]


class Bad:
    """Cannot be pickled."""

    def __reduce__(self):
        raise RuntimeError("no")


class Exits:
    """Raises while it is pickled what would end a program."""

    def __reduce__(self):
        raise SystemExit(1)


class Interrupts:
    """Is being pickled when the user presses Ctrl-C."""

    def __reduce__(self):
        raise KeyboardInterrupt


# --- modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_scalars_share_one_pickle(exact):
    """A batch of scalars goes whole in a single pickle."""
    items = [1, "two", None, 4.0, b"five", True]
    batch = make_batch(items, exact=exact)
    (parcel,), refused, rest = encode(batch)
    assert parcel.batch is batch
    assert parcel.mode == SCALARS | (EXACT if exact else 0)
    assert loads(parcel.load) == items
    assert (refused, rest) == ([], None)


def test_spread_scalars_share_one_pickle():
    """Tuples of scalars to be spread go in a single pickle of tuples."""
    items = [(1, "a"), (2, None), ()]
    (parcel,), _, _ = encode(make_batch(items, star=True))
    assert parcel.mode == SCALARS | STAR
    assert loads(parcel.load) == items


@pytest.mark.parametrize("odd", [[2], (2,), bytearray(b"2"), np.float64(2), ValueError(2)])
def test_one_that_is_no_scalar_has_each_go_for_itself(odd):
    """One item that may run code when it is unpickled gives every call its own pickle."""
    batch = make_batch([1, odd, "three"])
    encoded = encode(batch)
    assert encoded[0][0].mode == 0
    ((one, two, three),) = check(batch, encoded)
    assert (one, three) == (1, "three")
    assert type(two) is type(odd)


def test_spread_arguments_that_are_no_scalars():
    """Tuples with anything else in them go each for itself, to be spread."""
    batch = make_batch([(1, [2]), (3, {})], star=True, exact=True)
    encoded = encode(batch)
    assert encoded[0][0].mode == STAR | EXACT
    assert check(batch, encoded) == [[(1, [2]), (3, {})]]


def test_a_tuple_of_scalars_as_the_one_argument_is_no_scalar():
    """Without spreading a tuple is a value like any other."""
    batch = make_batch([(1, 2)])
    encoded = encode(batch)
    assert encoded[0][0].mode == 0
    assert check(batch, encoded) == [[(1, 2)]]


def test_what_was_packed_before_is_not_packed_again():
    """A batch that knows its payloads is sent as those, whatever its items are."""
    batch = make_batch([Bad(), Bad()], star=True, exact=True)
    batch.payloads = [pack(("one",)), pack(("two",))]
    parcel = ready_parcel(batch)
    assert parcel.batch is batch
    assert parcel.mode == STAR | EXACT
    assert items_of(parcel) == [("one",), ("two",)]


def test_a_part_of_what_was_packed_before():
    """A part of such a batch is sent as its own part of the payloads."""
    batch = make_batch([Bad(), Bad(), Bad()])
    batch.payloads = [pack(n) for n in range(3)]
    assert items_of(ready_parcel(batch.part(1, 3))) == [1, 2]


def test_arrays_go_beside_the_pickle():
    """The buffer of an array is handed on uncopied."""
    array = np.arange(1_000)
    (parcel,), _, _ = encode(make_batch([array]))
    ((_, (buffer,)),) = parcel.load
    assert np.shares_memory(np.frombuffer(buffer.raw(), array.dtype), array)


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("bad", [Bad, Exits, threading.Lock])
def test_one_that_cannot_be_pickled_is_refused_alone(place, bad):
    """One item that cannot be pickled is refused, and those around it go in order."""
    items = [[n] for n in range(5)]
    items[place] = bad()
    batch = make_batch(items, first=10)
    encoded = encode(batch)
    sent = check(batch, encoded)
    assert [n for items in sent for (n,) in items] == [n for n in range(5) if n != place]
    ((refused, error),) = encoded[1]
    assert list(refused.indices) == [10 + place]
    assert refused.items == [items[place]]
    assert type(error) is NotTransferable
    assert error.what == "an argument of echo()"


@given(st.lists(st.sampled_from(["scalar", "list", "bad"]), min_size=1, max_size=12))
def test_any_mixture(kinds):
    """In any mixture exactly the items that cannot be pickled are refused."""
    make = {"scalar": lambda: 1, "list": lambda: [1], "bad": Bad}
    batch = make_batch([make[kind]() for kind in kinds], first=3)
    encoded = encode(batch)
    check(batch, encoded)
    assert refused_indices(encoded) == [3 + n for n, kind in enumerate(kinds) if kind == "bad"]
    assert encoded[2] is None


def test_a_batch_of_which_nothing_can_go():
    """When no item can be pickled all are refused and nothing is sent."""
    sent, refused, rest = encode(make_batch([Bad(), Bad()]))
    assert sent == []
    assert len(refused) == 2
    assert rest is None


def test_the_refusal_names_the_culprit():
    """The error says where in the arguments the part is that cannot be pickled."""
    _, ((_, error),), _ = encode(make_batch([(1, {"lock": threading.Lock()})], star=True))
    assert error.where == "args[1]['lock']"
    assert "lock" in error.why


def test_the_callers_interrupt_passes(monkeypatch):
    """Ctrl-C while an argument or a function is pickled is no fault of theirs."""
    monkeypatch.setitem(hooks._quick, Interrupts, True)
    with pytest.raises(KeyboardInterrupt):
        parcels.encode(make_batch([Interrupts()]))
    with pytest.raises(KeyboardInterrupt):
        pack_function(Interrupts(), "crunch")


def test_an_interrupt_raised_in_a_thread_is_the_arguments_own():
    """A KeyboardInterrupt that an argument raises in a thread refuses that argument alone."""
    batch = make_batch([[1], Interrupts(), [2]])
    with ThreadPoolExecutor(1) as thread:
        encoded = thread.submit(encode, batch).result()
    assert refused_indices(encoded) == [1]
    check(batch, encoded)


# --- weight ---------------------------------------------------------------------------------


def heavy(n):
    """Give an item of two fifths of what makes a batch heavy, which says which one it is."""
    return bytearray([n]) * (2 * HEAVY // 5)


@pytest.mark.parametrize("make", [heavy, lambda n: np.frombuffer(heavy(n), "u1")])
def test_a_heavy_batch_is_cut(make):
    """Items beyond a megabyte wait for another turn, whether they are in or beside the pickle."""
    items = [make(n) for n in range(8)]
    rest, turns, sent = make_batch(items), 0, []
    while rest:
        batch = rest
        encoded = encode(batch)
        rest = encoded[2]
        sent += [bytes(item[:1]) for items in check(batch, encoded) for item in items]
        turns += 1
    assert sent == [bytes([n]) for n in range(8)]
    assert turns == 3


def test_a_single_heavy_item_goes():
    """However heavy an item is, it is sent when it is the first."""
    batch = make_batch([bytearray(4 * HEAVY), [1]])
    encoded = encode(batch)
    check(batch, encoded)
    assert [len(one.batch) for one in encoded[0]] == [1]
    assert list(encoded[2].indices) == [1]


def test_the_last_heavy_item_leaves_no_rest():
    """A batch that becomes heavy with its last item is sent whole."""
    batch = make_batch([[1], bytearray(4 * HEAVY)])
    encoded = encode(batch)
    check(batch, encoded)
    assert encoded[2] is None


def test_a_refusal_in_a_heavy_batch():
    """A heavy batch with an item that cannot be pickled loses none of the others."""
    items = [heavy(0), Bad(), heavy(2), heavy(3), Bad(), heavy(5)]
    batch = make_batch(items)
    encoded = encode(batch)
    first = check(batch, encoded)
    second = check(encoded[2], encode(encoded[2]))
    assert [item[0] for items in first + second for item in items] == [0, 2, 3, 5]
    assert refused_indices(encoded) == [1]
    assert refused_indices(encode(encoded[2])) == [4]


def test_a_batch_that_takes_long_is_cut(monkeypatch):
    """Items that take long to pickle end a batch, and the rest of it waits for another turn."""
    monkeypatch.setattr(parcels, "TURN", -1.0)
    batch = make_batch([[n] for n in range(3)], first=10)
    sent, refused, rest = encode(batch)
    assert [len(parcel.batch) for parcel in sent] == [1]
    assert refused == []
    assert list(rest.indices) == [11, 12]


def test_heavy_scalars_are_cut_too():
    """A batch of large strings is no lighter than one of anything else."""
    items = [bytes([n]) * (2 * HEAVY // 5) for n in range(8)]
    batch = make_batch(items)
    encoded = encode(batch)
    check(batch, encoded)
    assert encoded[2] is not None


# --- functions and single arguments ---------------------------------------------------------


def test_pack_argument():
    """An argument comes back from its pickle, or the error says whose argument it was."""
    function = Function(jobs.echo, "crunch", Estimate())
    assert unpack(pack_argument((1, [2]), function)) == (1, [2])
    with pytest.raises(NotTransferable, match=r"an argument of crunch\(\).*args\[1\]"):
        pack_argument((1, Bad()), function, hooks.pack_in_time)
    with pytest.raises(Unhurried):
        pack_argument((1, Bad()), function)


def test_what_may_take_long_is_left_for_a_thread():
    """A batch goes as far as its arguments pickle without code of their own, and says so."""
    batch = make_batch([[1], [2], [Bad()], [3]])
    sent, refused, rest, unhurried = parcels.encode(batch)
    assert [list(parcel.batch.indices) for parcel in sent] == [[0, 1]]
    assert (refused, list(rest.indices), unhurried) == ([], [2, 3], True)
    sent, refused, rest, unhurried = parcels.encode_in_time(rest)
    assert [list(parcel.batch.indices) for parcel in sent] == [[3]]
    assert [list(one.batch.indices) for one in refused] == [[2]]
    assert (rest, unhurried) == (None, False)


def test_pack_function():
    """A function comes back from its pickle, or the error names the part that hinders it."""
    lock = threading.Lock()
    assert loads(pack_function(jobs.inc, "inc")) is jobs.inc
    assert loads(pack_function(lambda x: x + 1, "<lambda>"))(1) == 2
    with pytest.raises(NotTransferable, match=r"the function crunch\(\).*lock") as caught:
        pack_function(lambda: lock, "crunch")
    assert "closure variable 'lock'" in caught.value.where


@pytest.mark.parametrize("bad", [Bad(), threading.Lock(), [threading.Lock()]])
def test_can_pickle(bad):
    """What cannot be sent is told from what can, lambdas included."""
    assert not can_pickle(bad)
    assert can_pickle([1, lambda: 2])
    assert can_pickle(pickle.PickleBuffer(b"x"))
