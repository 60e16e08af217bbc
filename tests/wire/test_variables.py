"""Context variables on the wire: which they are over there, and the context of a call."""

import pickle
from contextvars import ContextVar, copy_context

import cloudpickle
import pytest

from aiopool._wire import variables
from aiopool._wire.pickling import dumps, loads
from aiopool._wire.variables import declare, within

importable = ContextVar("importable")


@pytest.fixture
def elsewhere(monkeypatch):
    """Forget every variable, as in a process that has heard of none."""

    def forget():
        monkeypatch.setattr(variables, "_keys", {})
        monkeypatch.setattr(variables, "_own", {})

    return forget


def test_undeclared():
    """A variable that no pool was given does not pickle, and the message says so."""
    declare([importable])
    with pytest.raises(TypeError, match=r"'stranger' is none of those .* as contextvars"):
        pickle.dumps(ContextVar("stranger"))


def test_importable(elsewhere):
    """A variable of a module is that of the module wherever it is unpickled."""
    declare([importable])
    assert loads(dumps(importable)) is importable
    code = dumps(importable)
    assert importable.name.encode() in code
    elsewhere()
    assert loads(code) is importable
    assert loads(dumps(importable)) is importable


@pytest.mark.parametrize("default", [(), ("fallback",)])
def test_of_a_function(elsewhere, default):
    """A variable that no module has is made once in another process, with its name and default."""
    local = ContextVar("local", default=default[0]) if default else ContextVar("local")
    declare([local, local])
    codes = [dumps(local), cloudpickle.dumps(lambda: local)]
    assert loads(codes[0]) is local
    assert loads(codes[1])() is local
    elsewhere()
    found = loads(codes[0])
    assert found is not local
    assert found.name == "local"
    assert loads(codes[1])() is found
    assert loads(dumps(found)) is found
    if default:
        assert found.get() == "fallback"
    else:
        with pytest.raises(LookupError):
            found.get()


def test_of_main(monkeypatch):
    """A variable of the main module is not looked for there by workers, who may have another."""
    local = ContextVar("local")
    monkeypatch.setattr("__main__.local", local, raising=False)
    assert variables._locate(local)[0] == ""
    assert variables._locate(importable) == (__name__, "importable")


def test_within():
    """A function called within values sees them, and what it sets ends with its call."""
    declare([importable])

    def swap(new):
        old = importable.get("unset")
        importable.set(new)
        return old

    call = within(dumps([(importable, "given")]), swap)
    assert [call("a"), call("b")] == ["given", "given"]
    assert importable not in copy_context()
    assert call.__qualname__ == swap.__qualname__
    assert within(dumps([]), swap)("c") == "unset"


def test_within_values_of_its_own():
    """Each call has its own copy of a value."""
    declare([importable])

    def grow():
        importable.get().append(1)
        return importable.get()

    call = within(dumps([(importable, [])]), grow)
    assert [call(), call()] == [[1], [1]]
