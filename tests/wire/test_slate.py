"""The words that a worker and its parent share."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiopool._wire.slate import FINISHED, SINCE, SKIP_FROM, SKIP_TO, STARTED, TARGET, Slate
from tests.helpers import ROOT, block_until

WORDS = [STARTED, FINISHED, SINCE, TARGET, SKIP_FROM, SKIP_TO]
MOST = 2**64 - 1


@pytest.fixture
def pair():
    """Give two slates over the same memory."""
    one, fd = Slate.create()
    other = Slate.attach(fd)
    yield one, other
    one.close()
    other.close()


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_words_are_shared(pair):
    """What one side stores the other loads, word by word."""
    one, other = pair
    for word in WORDS:
        one.words[word] = word + 100
    assert [other.words[word] for word in WORDS] == [word + 100 for word in WORDS]
    other.words[TARGET] = 7
    assert one.words[TARGET] == 7


def test_words_are_distinct_and_start_at_zero(pair):
    """Every word has a place of its own and says zero at first."""
    assert len(set(WORDS)) == len(WORDS)
    assert list(pair[0].words) == [0] * len(pair[0].words)


def test_words_hold_64_bits(pair):
    """A word takes the largest number of eight bytes and refuses what does not fit."""
    one, other = pair
    one.words[SINCE] = MOST
    assert other.words[SINCE] == MOST
    with pytest.raises(ValueError):
        one.words[SINCE] = MOST + 1
    with pytest.raises(ValueError):
        one.words[SINCE] = -1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_create_keeps_no_descriptor_but_the_mapping():
    """After the handed-out descriptor and the slate are closed none is left."""
    before = descriptors()
    slate, fd = Slate.create()
    os.close(fd)
    slate.words[STARTED] = 1
    slate.close()
    assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_attach_closes_the_descriptor_it_was_given(pair):
    """Attaching takes over the descriptor, also when it cannot be mapped."""
    before = descriptors()
    fd = os.open(os.devnull, os.O_RDWR)
    with pytest.raises((OSError, ValueError)):
        Slate.attach(fd)
    assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_create_that_fails_leaves_no_descriptor(monkeypatch):
    """A slate that cannot be mapped leaves nothing open."""

    def refuse(*args, **kwargs):
        raise OSError("no memory")

    before = descriptors()
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="no memory"):
        Slate.create()
    assert descriptors() == before


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not passed there")
def test_a_slate_without_memory_files(monkeypatch):
    """Where there is no anonymous memory file a temporary one without a name does."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    one, fd = Slate.create()
    if sys.platform == "linux":
        assert "(deleted)" in str(Path(f"/proc/self/fd/{fd}").readlink())
    other = Slate.attach(fd)
    one.words[STARTED] = 9
    assert other.words[STARTED] == 9
    one.close()
    other.close()


def test_a_closed_slate_has_no_words(pair):
    """Closing ends all use of the memory at once."""
    slate, fd = Slate.create()
    os.close(fd)
    words = slate.words
    slate.close()
    with pytest.raises(ValueError, match="released"):
        words[STARTED] = 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_shares_the_words():
    """A process forked later stores into the same words."""
    program = """
import os
from aiopool._wire.slate import Slate
slate, fd = Slate.create()
os.close(fd)
pid = os.fork()
if pid == 0:
    slate.words[1] = 2**64 - 1
    os._exit(0)
os.waitpid(pid, 0)
assert slate.words[1] == 2**64 - 1
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not passed there")
def test_words_are_never_seen_half_written():
    """A word that another process stores all the time is always one of the stored values."""
    slate, fd = Slate.create()
    program = """
import sys
from aiopool._wire.slate import Slate
words = Slate.attach(int(sys.argv[1])).words
while not words[3]:
    words[0] = 2**64 - 1
    words[0] = 2**63
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(fd)], cwd=ROOT, pass_fds=[fd], text=True
    )
    os.close(fd)
    try:
        words = slate.words
        block_until(lambda: words[STARTED])
        seen = {words[STARTED] for _ in range(200_000)}
        assert seen <= {MOST, 2**63}
    finally:
        slate.words[TARGET] = 1
        assert writer.wait(20) == 0
        slate.close()
