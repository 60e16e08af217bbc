"""What a test left behind: processes, threads, descriptors, shared memory.

A `Snapshot` is taken before a test and compared after it. Rules:

- A process is ours if it descends from this one, or if it carries this session's marker in its
  environment, which finds the orphans too. The forkserver and the resource tracker that
  multiprocessing keeps for the whole run are not leaks, nor are the pipes to them.
- Descriptors are compared by number and kind, for a descriptor may be reopened.
- Things may need a moment to go, so `settle` looks again for a while before it complains.

Everything is read from /proc; elsewhere only threads are compared.
"""

import gc
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

SETTLE = 2.0
PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")
MARKER = "AIOPOOL_TEST_SESSION"


def mark_session():
    """Make every program started from here on recognisable, also when it is orphaned."""
    os.environ[MARKER] = f"{os.getpid()}.{time.time_ns()}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What existed at one moment."""

    processes: frozenset
    threads: frozenset
    descriptors: tuple
    shared_memory: frozenset

    @classmethod
    def take(cls):
        return cls(
            processes=frozenset(_processes()),
            threads=frozenset(threading.enumerate()),
            descriptors=tuple(_descriptors()),
            shared_memory=frozenset(_shared_memory()),
        )

    def leaks(self):
        """Describe, one line each, what exists now and did not exist then."""
        return [
            *self._new_processes(),
            *self._new_threads(),
            *self._new_descriptors(),
            *self._new_shared_memory(),
        ]

    def settle(self, patience=SETTLE):
        """Wait for the leaks to go and describe those that stay."""
        deadline = time.monotonic() + patience
        pause = 0.001
        leaks = self.leaks()
        while leaks and time.monotonic() < deadline:
            # What is only held by a reference cycle warns as it goes, here and not in a later test.
            gc.collect()
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
            leaks = self.leaks()
        return leaks

    def _new_processes(self):
        return [
            f"process {pid}, {_state(pid)}: {_command(pid)}"
            for pid, started in sorted(_processes() - self.processes)
        ]

    def _new_threads(self):
        return [
            f"thread {thread.name!r}, {'daemon' if thread.daemon else 'not daemon'}"
            for thread in threading.enumerate()
            if thread not in self.threads
        ]

    def _new_descriptors(self):
        now = _descriptors()
        more = Counter(map(_kind, now)) - Counter(map(_kind, self.descriptors))
        new = Counter(now) - Counter(self.descriptors)
        return [
            f"{count} more descriptors of kind {kind}: "
            + ", ".join(link for link in new.elements() if _kind(link) == kind)
            for kind, count in more.items()
        ]

    def _new_shared_memory(self):
        new = sorted(_shared_memory() - self.shared_memory)
        return [f"shared memory {path}" for path in new if not _held_by_a_stranger(path)]


# --- processes ------------------------------------------------------------------------------


def _processes():
    """Give pid and start time of every process of ours but this one and the two servers."""
    table = _process_table()
    family = {os.getpid()}
    strays = {pid for pid in table if pid != os.getpid() and _is_marked(pid)}
    grown = True
    while grown:
        members = {p for p, (parent, _) in table.items() if parent in family or p in strays}
        grown = not members <= family
        family |= members
    return {(pid, table[pid][1]) for pid in family & table.keys() - _servers() - {os.getpid()}}


def _process_table():
    """Map every pid to its parent and its start time."""
    table = {}
    for pid in _pids():
        try:
            status = (PROC / str(pid) / "stat").read_bytes()
        except OSError:
            continue
        fields = status.rpartition(b")")[2].split()
        table[pid] = int(fields[1]), int(fields[19])
    return table


def _pids():
    return [int(name) for name in _listdir(PROC) if name.isdecimal()]


def _is_marked(pid):
    return f"{MARKER}={os.environ.get(MARKER)}\0".encode() in _environment(pid)


def _environment(pid):
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def _servers():
    """Give the pids of multiprocessing's forkserver and resource tracker, where they run."""
    # Private names, but the only ones that tell the server from a worker forked by it.
    return {
        getattr(forkserver._forkserver, "_forkserver_pid", None),
        getattr(resource_tracker._resource_tracker, "_pid", None),
    }


def _state(pid):
    try:
        status = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return "just gone"
    fields = status.rpartition(b")")[2].split()
    return f"state {fields[0].decode()}, child of {fields[1].decode()}"


def _command(pid):
    try:
        command = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return command.replace(b"\0", b" ").decode(errors="replace").strip()[:200]


# --- descriptors and shared memory ----------------------------------------------------------


def _descriptors():
    """Give what this process's descriptors point at, without those to the servers."""
    kept = {
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
        getattr(resource_tracker._resource_tracker, "_fd", None),
    }
    links = []
    for name in _listdir(PROC / "self" / "fd"):
        try:
            link = str((PROC / "self" / "fd" / name).readlink())
        except OSError:
            continue  # the descriptor of the listing itself
        if int(name) not in kept:
            links.append(link)
    return links


def _kind(link):
    return link.partition(":")[0] if link.startswith(("socket:", "pipe:")) else link


def _shared_memory():
    """Give the paths of this user's shared memory files; folders there are other programs'."""
    paths = [SHARED_MEMORY / name for name in _listdir(SHARED_MEMORY)]
    return {str(path) for path in paths if not path.is_dir() and _owner(path) == os.getuid()}


def _owner(path):
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _held_by_a_stranger(path):
    """Tell whether a process that is not ours uses the file, so that it is not our leak."""
    try:
        inode = Path(path).stat().st_ino
    except OSError:
        return True  # it has just gone
    ours = {os.getpid(), *(pid for pid, _ in _processes()), *_servers()}
    others = [pid for pid in _pids() if pid not in ours]
    if any(_maps(pid, inode) for pid in others):
        return True
    # Another session kills programs of its own, whose semaphores then stay for a while.
    if not Path(path).name.startswith("sem.mp-") or any(_maps(pid, inode) for pid in ours):
        return False
    return any(f"{MARKER}=".encode() in _environment(pid) for pid in others)


def _maps(pid, inode):
    # By inode: semaphores are made under another name and then linked to the one they keep.
    try:
        lines = (PROC / str(pid) / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(str(SHARED_MEMORY) in line and str(inode) in line.split() for line in lines)


def _listdir(path):
    try:
        return [entry.name for entry in path.iterdir()]
    except OSError:
        return []
