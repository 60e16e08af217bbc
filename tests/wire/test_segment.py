"""Memory that is filled once and read by its address."""

import errno
import os
import sys
from pathlib import Path

import pytest

from aiopool._wire import segment
from aiopool._wire.segment import Attached, Segment
from tests.helpers import run_python

PIECES = [b"first", b"", bytes(range(256)) * 100]


def place(pieces=PIECES):
    return Segment([memoryview(piece) for piece in pieces])


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def in_shared_memory():
    # Without semaphores, which other programs make and remove at any time.
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.")}


@pytest.fixture(params=["memory file", "temporary file", "named"])
def kind(request, monkeypatch):
    """Make segments of each kind there is."""
    if request.param == "named":
        monkeypatch.setattr(segment, "_PROC", False)
    elif sys.platform != "linux":
        pytest.skip("there is no /proc")
    elif request.param == "temporary file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return request.param


@pytest.fixture
def placed(kind):
    placed = place()
    yield placed
    placed.retire()


def test_pieces_are_read_by_address(placed):
    """Who attaches finds the pieces as they were, each at an aligned place."""
    assert [bytes(piece) for piece in Attached(placed.address).pieces] == PIECES


def test_pieces_are_read_only(placed):
    """What is attached to cannot be written to."""
    piece = Attached(placed.address).pieces[0]
    with pytest.raises(TypeError, match="read-only"):
        piece[0] = 1


def test_another_process_reads(placed, kind):
    """A process that was not even forked by this one reads the same by the address alone."""
    if kind == "named":
        pytest.skip(
            "each family of processes has a resource tracker of its own, which would remove it"
        )
    program = (
        "from aiopool._wire.segment import Attached\n"
        f"print(bytes(Attached({placed.address!r}).pieces[0]))"
    )
    done = run_python("-c", program)
    assert (done.stdout, done.returncode) == ("b'first'\n", 0), done.stderr


def test_pieces_outlive_the_segment(placed):
    """Who has attached keeps the pieces, and is told that the segment is gone."""
    attached = Attached(placed.address)
    assert not attached.gone
    placed.retire()
    assert attached.gone
    assert [bytes(piece) for piece in attached.pieces] == PIECES


def test_a_retired_segment_cannot_be_attached_to(placed):
    """Nobody attaches to a segment that is gone, and retiring it again does nothing."""
    placed.retire()
    placed.retire()
    with pytest.raises(OSError):
        Attached(placed.address)


def test_an_address_is_never_mistaken():
    """An address whose descriptor has become another segment's, or a pipe's, leads nowhere."""
    first = place()
    address = first.address
    first.retire()
    second = place()
    ends = os.pipe()
    try:
        for fd in (second.address[1], *ends, 1 << 20):
            with pytest.raises(OSError):
                Attached((address[0], fd, address[2]))
    finally:
        second.retire()
        for end in ends:
            os.close(end)


@pytest.mark.skipif(sys.platform != "linux", reason="fills a file of /proc")
def test_no_room(monkeypatch):
    """A segment that does not fit raises the system's error and leaves no descriptor."""
    before = descriptors()
    write = os.pwrite

    def fill(fd, data, start):
        if start > 128:
            raise OSError(errno.ENOSPC, "no space left")
        return write(fd, data[:64], start)

    monkeypatch.setattr(os, "pwrite", fill)
    with pytest.raises(OSError, match="no space left"):
        place()
    assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_a_file_system_of_a_megabyte(tmp_path, monkeypatch):
    """Where shared memory is a file system that is full, placing fails and touches nothing."""
    program = """
import os
from aiopool._wire.segment import Segment
try:
    Segment([memoryview(bytes(4 << 20))])
except OSError as error:
    print(error.errno, os.listdir("/dev/shm"))
"""
    preparation = "import os; del os.memfd_create\n"
    mount = "mount -t tmpfs -o size=1m none /dev/shm && exec "
    command = f"{mount} {sys.executable} -c '{preparation}{program}'"
    done = run_python(
        "-c",
        "import subprocess, sys; r = subprocess.run(['unshare', '-rm', 'sh', '-c', sys.argv[1]], "
        "text=True, capture_output=True); print(r.stdout or r.stderr)",
        command,
    )
    if "Operation not permitted" in done.stdout or "unshare" in done.stdout:
        pytest.skip("no namespaces here")
    assert done.stdout.strip() == f"{errno.ENOSPC} []", done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_leaves_it_alone(placed):
    """A forked copy lets go of its descriptor and takes nothing from its maker."""
    program = """
import os
from aiopool._wire.segment import Attached, Segment
placed = Segment([memoryview(b"first")])
pid = os.fork()
if pid == 0:
    placed.disown()
    placed.retire()
    piece = bytes(Attached(placed.address).pieces[0])
    os._exit(0 if piece == b"first" else 1)
assert os.waitpid(pid, 0)[1] == 0
assert bytes(Attached(placed.address).pieces[0]) == b"first"
placed.retire()
"""
    done = run_python("-c", program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /dev/shm")
def test_only_named_memory_has_a_name(kind):
    """While it is there only named memory is seen in /dev/shm, and afterwards nothing."""
    before = in_shared_memory()
    placed = place()
    assert len(in_shared_memory() - before) == (kind == "named")
    placed.retire()
    assert in_shared_memory() == before
