"""Values as bytes and back."""

import functools
import pickle
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._wire import pickling
from aiopool._wire.framing import Decoder, encode
from aiopool._wire.pickling import SCALARS, are_light, dumps, loads, pack, seal, unpack
from tests import jobs
from tests.helpers import run_python

LARGE = pickling._LARGE


def cross(packed):
    """Send it in the envelope of a frame."""
    data = memoryview(b"".join(encode(1, *seal([packed]))))
    decoder = Decoder()
    while data:
        room = decoder.get_buffer()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        for frame in decoder.received(count):
            return loads(frame.body, frame.buffers)[0]
    raise AssertionError("no frame")


def there_and_back(obj):
    return unpack(cross(pack(obj)))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(VALUES)
def test_builtin_values_survive(value):
    """Plain values come back equal, in one piece and packed."""
    assert loads(dumps(value)) == value
    assert there_and_back(value) == value


@given(st.sampled_from([b"", b"x", b"__main__", b"\0" * (LARGE + 1)]), st.booleans())
def test_bytes_of_any_size(data, as_bytearray):
    """Bytes and bytearrays stay of their type, whatever is in them."""
    value = bytearray(data) if as_bytearray else data
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_plain_pickle_comes_first(monkeypatch):
    """What plain pickle can do is not left to cloudpickle."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    assert loads(dumps(jobs.add)) is jobs.add
    assert unpack(pack([jobs.add, 1])) == [jobs.add, 1]
    with pytest.raises(ImportError):
        dumps(lambda: 1)


def test_cloudpickle_is_imported_late():
    """Importing the module and pickling plain things does not load cloudpickle."""
    program = (
        "import sys; from aiopool._wire.pickling import dumps, pack; dumps([1]); pack(len);"
        "assert 'cloudpickle' not in sys.modules"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("through", [lambda f: loads(dumps(f)), there_and_back])
def test_functions_without_a_name_to_import(through):
    """Lambdas, closures and partials of them cross."""
    factor = 3

    def scaled(x):
        return x * factor

    assert through(lambda x: x + 1)(1) == 2
    assert through(scaled)(2) == 6
    assert through(functools.partial(scaled, 5))() == 15


MAIN = """
import sys
from dataclasses import dataclass
from aiopool._wire.pickling import dumps, pack, seal

OFFSET = 10

@dataclass
class Point:
    x: int
    def shifted(self):
        return Point(self.x + OFFSET)

def shift(x):
    return Point(x).shifted()

out = sys.stdout.buffer
one = dumps(shift)
body, buffers = seal(pack([shift, Point(1)]))
assert not buffers
out.write(len(one).to_bytes(8, "big") + one + body)
"""


def test_main_goes_by_value(tmp_path):
    """Functions and classes of a script unpickle in a process with another main module."""
    script = tmp_path / "script.py"
    script.write_text(MAIN.replace("sys.stdout.buffer", f"open({str(tmp_path / 'out')!r}, 'wb')"))
    done = run_python(script, env={"PYTHONPATH": ".", "PATH": ""})
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "out").read_bytes()
    size = int.from_bytes(data[:8], "big")
    shift = loads(data[8 : 8 + size])
    assert shift(5).x == 15
    shift, point = unpack(loads(data[8 + size :]))
    assert type(shift(1)) is type(point)
    assert point.shifted().x == 11


def test_main_is_found_in_the_pickle(monkeypatch):
    """A function of the main module goes by value though plain pickle would name it."""
    module = types.ModuleType("__main__")
    exec("def here(): return 'by value'", vars(module))
    monkeypatch.setitem(sys.modules, "__main__", module)
    data, packed = dumps(module.here), pack(module.here)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert loads(data)() == "by value"
    assert unpack(packed)() == "by value"


def test_the_word_main_in_data_does_no_harm():
    """Data that contains the name of the main module crosses as any other."""
    value = ["__main__", b"__main__", {"__main__": np.arange(3)}]
    back = there_and_back(value)
    assert back[:2] == value[:2]
    assert back[2]["__main__"].tolist() == [0, 1, 2]


# --- out of band ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(100_000),
        np.arange(3, dtype="u1"),
        np.zeros(0),
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(100)[::7],
        np.array([{"a": 1}, None], dtype=object),
        np.array(["text", "longer"]),
        np.array(5),
    ],
    ids=lambda array: f"{array.dtype.kind}{array.shape}",
)
def test_arrays(array):
    """Arrays of every layout come back equal and writable."""
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()
    if back.size:
        back.flat[0] = back.flat[0]


def test_arrays_are_not_copied():
    """The buffers of an envelope are the array's own memory, and the copy lives in the received."""
    array = np.arange(1_000)
    _, buffers = pack({"deep": [array]})
    assert np.shares_memory(np.frombuffer(buffers[0].raw(), array.dtype), array)
    body, raw = seal([1, pack(array)])
    assert np.shares_memory(np.frombuffer(raw[0], array.dtype), array)
    received = [bytearray(buffer) for buffer in raw]
    back = unpack(loads(body, received)[1])
    assert np.shares_memory(back, np.frombuffer(received[0], array.dtype))


def test_arrays_in_cloudpickled_things_go_beside_too():
    """A closure over an array sends it out of band, once."""
    array = np.arange(10_000)

    def total():
        return array.sum()

    packed = pack(total)
    data, buffers = packed
    assert memoryview(data).nbytes < array.nbytes
    assert sum(memoryview(buffer).nbytes for buffer in buffers) == array.nbytes
    assert unpack(cross(packed))() == array.sum()


def test_buffers_of_the_failed_attempt_are_dropped():
    """Falling back to cloudpickle after some buffers were collected does not send them twice."""
    array = np.arange(1_000)
    packed = pack([array, lambda: 1])
    assert len(packed[1]) == 1
    back = unpack(cross(packed))
    assert (back[0] == array).all()
    assert back[1]() == 1


def test_seal_keeps_large_pickles_beside_the_envelope():
    """A large pickle without buffers of its own is not copied into the envelope."""
    for large in ("x" * (4 * LARGE), b"x" * (4 * LARGE), [10**9 * n for n in range(LARGE)]):
        body, buffers = seal((False, [pack(large)]))
        assert len(body) < 400
        assert sum(memoryview(buffer).nbytes for buffer in buffers) >= 4 * LARGE


def test_large_bytes_are_not_copied():
    """Bytes go to the wire as the object they are, wherever they are in what is packed."""
    large = b"x" * (4 * LARGE)
    pieces, _ = pack(({"deep": [large]}, 1))
    assert [piece.raw().obj is large for piece in pieces if type(piece) is not bytes] == [True]


def test_buffers_among_the_bytes_keep_their_order():
    """Buffers beyond those that go beside the pickle are memory as it is, in whatever order."""
    columns = np.arange(90_000, dtype="u1").reshape(300, 300, order="F")
    many = [pickle.PickleBuffer(columns) for _ in range(pickling.MOST_BUFFERS + 2)]
    assert bytes(unpack(pack((many,)))[0][-1]) == columns.tobytes("A")


def test_large_bytes_and_classes_of_a_script():
    """A class of ``__main__`` is seen beside bytes of any content, the word in bytes is not."""
    source = """
from aiopool._wire import pickling

class Odd:
    pass

def by_value(obj, *rest):
    raise NotImplementedError

pickling.dumps_by_value = by_value
large = b"__main__" * 50_000
packed = pickling.pack([large, "__main__" * 50_000, bytearray(large), 1 << 3_000_000])
assert pickling.unpack(packed)[0] == large
for size in (1, 100, 70_000, 300_000):
    lure = (size % 256).to_bytes(4, "little") * size
    for odd in ([Odd(), large], [large, Odd()], [1 << 3_000_000, Odd(), lure], [lure, Odd()]):
        try:
            pickling.pack(odd)
        except NotImplementedError:
            continue
        raise AssertionError(size)
"""
    ended = run_python("-c", source)
    assert ended.returncode == 0, ended.stderr


def test_seal_gives_plain_bytes():
    """The buffers of an envelope are one-dimensional and counted in bytes."""
    _, buffers = seal(pack(np.zeros((30, 40, 50))))
    assert [(buffer.ndim, buffer.itemsize, len(buffer)) for buffer in buffers] == [(1, 1, 480_000)]


def test_more_large_arrays_than_go_beside():
    """Arrays beyond the number that goes out of band cross too, in their places."""
    arrays = [np.full(2_000, n) for n in range(3 * pickling.MOST_BUFFERS)]
    packed = pack(arrays)
    assert len(packed[1]) == pickling.MOST_BUFFERS
    back = unpack(cross(packed))
    assert [int(array[0]) for array in back] == list(range(len(arrays)))
    for array in back:
        array[:] = 0


def test_what_goes_in_band_is_a_copy():
    """A small array is what it was when it was packed, whatever happens to it afterwards."""
    array = np.arange(3)
    packed = pack(array)
    array[:] = 0
    assert unpack(packed).tolist() == [0, 1, 2]


def test_very_many_arrays():
    """More arrays than a frame can hold buffers still cross in one."""
    back = there_and_back([np.full(1, i) for i in range(70_000)])
    assert [int(array[0]) for array in back] == list(range(70_000))


# --- scalars --------------------------------------------------------------------------------


def test_scalars_are_what_pickles_without_running_code():
    """Only exact builtin types count as scalars, so nobody's code runs in a shared pickle."""

    class Sly(int):
        pass

    assert are_light([1, 1.5, 1j, "text", b"bytes", None, True, -(2**100)], 1000)
    assert are_light([], 0)
    for odd in (Sly(1), [1], (1,), bytearray(b"x"), np.float64(1), ValueError(), object):
        assert not are_light([1, odd, 2], 1000)
    assert are_light([b"x" * 1000, "y"], 2000)
    assert not are_light([b"x" * 1000, "y"], 1000)
    assert int in SCALARS
    assert list not in SCALARS


@given(
    st.lists(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(st.characters())
        | st.binary()
    )
)
def test_scalars_share_one_pickle(values):
    """A list of scalars of any content pickles as one."""
    assert are_light(values, 1 << 20)
    assert loads(dumps(values)) == values


def test_lone_surrogates():
    """A string that cannot be encoded crosses as it is."""
    assert there_and_back("\ud800") == "\ud800"


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pickler", [dumps, pack])
def test_errors_of_the_object_pass(pickler):
    """What a hook of the object raises while it is pickled is raised."""
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        pickler(jobs.PickleRaises())
    with pytest.raises((TypeError, pickle.PicklingError), match="lock"):
        pickler([jobs.ret_lock()])


def test_errors_of_unpickling_pass():
    """What a hook raises while it is unpickled is raised."""
    with pytest.raises(RuntimeError, match="cannot be unpickled"):
        loads(dumps(jobs.UnpickleRaises()))
    with pytest.raises(RuntimeError, match="cannot be unpickled"):
        there_and_back(jobs.UnpickleRaises())


class Exits:
    def __reduce__(self):
        raise SystemExit(3)


@pytest.mark.parametrize("pickler", [dumps, pack])
def test_an_order_to_stop_is_not_taken_for_an_unpicklable(pickler):
    """SystemExit raised while pickling passes at once."""
    with pytest.raises(SystemExit):
        pickler(Exits())
