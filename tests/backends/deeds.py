"""Jobs that kill, stall, litter or refuse to cross; as in `tests.jobs`, importable by workers."""

import ctypes
import os
import signal
import stat
import sys
import time
from pathlib import Path

from tests import jobs

# --- the event loop's versions --------------------------------------------------------------


async def gate_async(marker_path, release_path):
    """Be `jobs.gate` for the event loop."""
    from asyncio import sleep  # workers have no use for asyncio, and it is slow to import

    jobs.write_whole(marker_path, str(os.getpid()))
    while not Path(release_path).exists():
        await sleep(0.001)
    return os.getpid()


def enter_and_leave(journal_path, release_path, x):
    """Write a line on entering and on leaving, so that a test can see calls overlap."""
    jobs.record(journal_path, "in")
    while not Path(release_path).exists():
        time.sleep(0.001)
    jobs.record(journal_path, "out")
    return x


async def enter_and_leave_async(journal_path, release_path, x):
    """Be `enter_and_leave` for the event loop."""
    from asyncio import sleep

    jobs.record(journal_path, "in")
    while not Path(release_path).exists():
        await sleep(0.001)
    jobs.record(journal_path, "out")
    return x


def most_at_once(journal_path):
    """Read from the journal how many calls were inside at the same time at most."""
    inside = most = 0
    for line in Path(journal_path).read_text().split():
        inside += 1 if line == "in" else -1
        most = max(most, inside)
    return most


# --- dying ----------------------------------------------------------------------------------


def segv():
    """Read address 0."""
    ctypes.string_at(0)


def exit_if(pair):
    """Give the number of a pair, or end the process if its other half says so."""
    number, guilty = pair
    if guilty:
        os._exit(1)
    return number


def kill_times(journal_path, times, x):
    """Kill the worker on the first `times` executions, and return `x` afterwards."""
    jobs.record(journal_path, x)
    if len(Path(journal_path).read_text().splitlines()) <= times:
        jobs.kill_self(signal.SIGKILL)
    return x


def inc_unless(killer, x):
    """Add one, but for one value, which ends the worker."""
    if x == killer:
        os._exit(9)
    return x + 1


def inc_unless_recorded(journal_path, killer, x):
    """Do as `inc_unless` and note every execution."""
    jobs.record(journal_path, x)
    return inc_unless(killer, x)


def die_halfway_through_sending(size):
    """Have the worker die when half of this call's result has left it."""
    from aiopool._wire.framing import encode
    from aiopool._worker.serve import Worker

    def send_half(self, kind, body, buffers=()):
        whole = b"".join(encode(kind, body, list(buffers)))
        self._sock.sendall(whole[: len(whole) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Worker.send = send_half
    return bytes(size)


class DelKills:
    """Kills the process that frees it, unless that is the one that made it."""

    def __init__(self, home=None):
        self.home = os.getpid() if home is None else home

    def __reduce__(self):
        return DelKills, (self.home,)

    def __del__(self):
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)


# --- not stopping ---------------------------------------------------------------------------


def swallow_interrupts(marker_path):
    """Let no exception end it; once that is so, say that it has begun."""
    said = False
    while True:
        try:
            if not said:
                jobs.write_whole(marker_path, str(os.getpid()))
                said = True
            time.sleep(60)
        except BaseException:  # noqa: BLE001 - the deafness is the point
            continue


def clean_up_at_gate(marker_path, release_path, cleaning_path, cleaned_path):
    """Wait at a gate; once stopped, clean up until a file exists, and say when that is done."""
    try:
        jobs.gate(marker_path, release_path)
    finally:
        jobs.write_whole(cleaning_path, str(os.getpid()))
        while not Path(release_path).exists():
            time.sleep(0.001)
        jobs.write_whole(cleaned_path, str(os.getpid()))


def say_then(marker_path, fn, *args):
    """Write this process's id to a file, then call."""
    jobs.write_whole(marker_path, str(os.getpid()))
    return fn(*args)


def deaf_then(marker_path, fn, *args):
    """Do as `say_then`, but let no interrupt come between the two."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    return say_then(marker_path, fn, *args)


def stay_at_7(x):
    """Give the number back, and 7 never."""
    if x == 7:
        jobs.sleep_for(600)
    return x


def stay_twice(journal_path):
    """Give the number of executions from the third on."""
    jobs.record(journal_path, "x")
    executions = len(Path(journal_path).read_text().split())
    if executions < 3:
        jobs.sleep_for(600)
    return executions


# --- initializers ---------------------------------------------------------------------------

_settings = {}


def set_up(key, value):
    _settings[key] = value


def setting(key):
    return _settings.get(key)


def set_up_failing(journal_path):
    jobs.record(journal_path, os.getpid())
    raise ValueError("no set-up for you")


def set_up_exiting(journal_path):
    jobs.record(journal_path, os.getpid())
    os._exit(5)


def set_up_sys_exiting(journal_path):
    jobs.record(journal_path, os.getpid())
    sys.exit("leaving")


def set_up_failing_once(journal_path):
    jobs.fail_times(journal_path, 1, os.getpid())


def hold(size):
    """Keep memory for good and return this process's id."""
    _settings.setdefault("held", []).append(b"x" * size)
    return os.getpid()


# --- crossing -------------------------------------------------------------------------------


class SysExitAtPickle:
    """Raises SystemExit where it is pickled."""

    def __reduce__(self):
        raise SystemExit("at pickle")


class SysExitAtUnpickle:
    """Raises SystemExit where it is unpickled."""

    def __reduce__(self):
        return jobs.sys_exit, ("at unpickle",)


class Unpickles:
    """Becomes what a function returns where it is unpickled."""

    def __init__(self, fn, args):
        self.call = fn, args

    def __reduce__(self):
        return self.call


class KillsAtUnpickle:
    """Kills the process that unpickles it."""

    def __reduce__(self):
        return jobs.kill_self, (signal.SIGKILL,)


class CallableFailingAtUnpickle:
    """A function that cannot be rebuilt where it is to run."""

    def __call__(self, x):
        return x

    def __reduce__(self):
        return jobs.raise_type, (ValueError, "not rebuilt")


def ret_sys_exit_at_unpickle():
    return SysExitAtUnpickle()


def raise_noted(*args):
    """Raise with arguments and notes."""
    error = LookupError(*args)
    error.add_note("first note")
    error.add_note("second note")
    raise error


def make_coroutine(x):
    """Be a plain function that hands out a coroutine."""
    return jobs.inc_async(x)


# --- misbehaving ----------------------------------------------------------------------------


def close_descriptors():
    """Close whatever is open besides the standard streams."""
    os.closerange(3, 256)
    return "closed"


def write_garbage():
    """Write nonsense to every socket this process has."""
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"\xff" * 4096)
        except OSError:
            continue
    return "written"


def record_and_write_garbage(journal_path):
    jobs.record(journal_path, "call")
    return write_garbage()


def nested_map(count):
    """Use a pool of this worker's own."""
    import asyncio

    import aiopool

    async def main():
        async with aiopool.Pool(1) as pool:
            return await pool.map(jobs.square, range(count))

    return asyncio.run(main())
