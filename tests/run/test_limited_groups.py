"""TaskGroup with limit, priorities, on_error and cancel: which children run, and when."""

import asyncio
import contextvars
import gc
import math
import sys
import warnings

import anyio
import pytest

from aiopool import Pool, Priority, Retry, TaskGroup, TaskHandle, TaskTimeout, checkpoint
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, forever, turns

KINDS = pytest.mark.parametrize("kind", ["start_soon", "create_task"])
OWNERS = pytest.mark.parametrize("owner", ["alone", "pool"])
VAR = contextvars.ContextVar("var", default=0)


def start(group, kind, fn, *args, **options):
    """Start a child by the one verb or the other."""
    if kind == "start_soon":
        return group.start_soon(fn, *args, **options)
    return group.create_task(fn(*args), **options)


class Owner:
    """Makes groups with or without a pool."""

    def __init__(self, pool=None):
        self.pool = pool

    def group(self, **options):
        return TaskGroup(**options) if self.pool is None else self.pool.task_group(**options)


@pytest.fixture
async def owner(request):
    """Give an `Owner`, by the name in the parameter."""
    if request.param == "alone":
        yield Owner()
        return
    async with Pool(1, backend="inline") as pool:
        yield Owner(pool)


OWNED = pytest.mark.parametrize("owner", ["alone", "pool"], indirect=True)


@OWNED
@KINDS
async def test_no_more_than_the_limit_run_at_once(owner, kind, shop):
    """With a limit at most that many children run, and all have run in the end."""
    async with owner.group(limit=3) as group:
        children = [start(group, kind, shop.work, x) for x in range(10)]
        await shop.has_started(0, 1, 2)
        await turns()
        assert shop.most == 3
        shop.open()
    assert shop.most == 3
    assert [child.result() for child in children] == list(range(10))
    assert group._floor.places.running == 0
    group._floor.places.validate()


@OWNED
async def test_both_kinds_share_the_places(owner, shop):
    """Children of both verbs stand in one line for the same places."""
    async with owner.group(limit=2) as group:
        for x in range(8):
            start(group, ["start_soon", "create_task"][x % 2], shop.work, x)
        for x in range(8):
            await shop.has_started(x)
            shop.let(x)
    assert shop.most == 2
    assert sorted(shop.started) == list(range(8))


@OWNED
@KINDS
async def test_who_waits_comes_in_order_of_priority(owner, kind, shop):
    """Waiting children start by priority, those of equal priority in the order they came."""
    async with owner.group(limit=1, aging=math.inf) as group:
        start(group, kind, shop.work, "first")
        await shop.has_started("first")
        for name, priority in [("low", 10), ("a", 0), ("high", -10), ("b", 0)]:
            start(group, kind, shop.work, name, priority=priority)
        shop.open()
    assert shop.started == ["first", "high", "a", "b", "low"]


async def test_waiting_makes_up_for_priority(shop):
    """With aging a child that has waited long enough comes before a more important new one."""
    async with TaskGroup(limit=1, aging=0.0) as group:
        group.start_soon(shop.work, "first")
        await shop.has_started("first")
        group.start_soon(shop.work, "old", priority=Priority.IDLE)
        await turns()
        group.create_task(shop.work("new"), priority=Priority.URGENT)
        shop.open()
    assert shop.started == ["first", "old", "new"]


async def test_the_priority_of_a_waiting_child_can_be_set(shop):
    """A handle's priority moves its child while that waits."""
    async with TaskGroup(limit=1, aging=math.inf) as group:
        group.start_soon(shop.work, "first")
        await shop.has_started("first")
        group.start_soon(shop.work, "a")
        late = group.start_soon(shop.work, "b")
        assert late.state == "queued"
        late.priority = Priority.HIGH
        assert late.priority == Priority.HIGH
        shop.open()
    assert shop.started == ["first", "b", "a"]
    assert late.state == "done"


@OWNED
@KINDS
async def test_a_waiting_child_that_is_cancelled_never_starts(owner, kind, shop):
    """Cancelling a child that waits ends it at once, and nothing warns of its coroutine."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with owner.group(limit=1) as group:
            start(group, kind, shop.work, "first")
            await shop.has_started("first")
            children = [start(group, kind, shop.work, x) for x in range(100)]
            children[0].cancel()  # before its task has taken a step
            await turns()
            for child in children:
                child.cancel()
            await turns()
            assert all(child.cancelled() for child in children)
            shop.open()
        gc.collect()
    assert shop.started == ["first"]
    group._floor.places.validate()


@OWNED
@KINDS
async def test_a_failure_stops_those_who_wait(owner, kind, shop):
    """When a child fails, waiting ones never start and running ones are cancelled."""
    async with owner.group() as watching:
        with pytest.raises(ExceptionGroup) as caught:
            async with owner.group(limit=2) as group:
                start(group, kind, shop.work, "running")
                await shop.has_started("running")
                start(group, kind, fail, 1)
                waiting = start(group, kind, shop.work, "waiting")
        assert watching
    assert [error.args for error in caught.value.exceptions] == [(1,)]
    assert waiting.cancelled()
    assert shop.started == ["running"] == shop.ended


async def fail(x="failed"):
    raise ValueError(x)


@OWNED
@KINDS
@pytest.mark.parametrize("limit", [None, 1, 2])
async def test_with_continue_siblings_run_on(owner, kind, limit):
    """With on_error="continue" all children run, and all failures are raised together."""
    with pytest.raises(ExceptionGroup) as caught:
        async with owner.group(limit=limit, on_error="continue") as group:
            children = [start(group, kind, fail if x % 2 else double, x) for x in range(6)]
            raise KeyError("body")
    errors = [error.args[0] for error in caught.value.exceptions]
    assert sorted(errors, key=str) == [1, 3, 5, "body"]
    assert [child.result() for child in children[::2]] == [0, 4, 8]


async def test_with_continue_a_cancellation_still_stops_all(shop):
    """With on_error="continue" cancelling the parent cancels every child."""

    async def host():
        async with TaskGroup(limit=1, on_error="continue") as group:
            group.start_soon(shop.work, 1)
            group.create_task(shop.work(2))

    task = asyncio.ensure_future(host())
    await shop.has_started(1)
    task.cancel()
    await ended(task)
    assert task.cancelled() and shop.started == shop.ended == [1]


@OWNED
@KINDS
@pytest.mark.parametrize("limit", [None, 1])
async def test_cancel_stops_a_group_without_an_error(owner, kind, limit, shop):
    """cancel() ends the block and all children, raises nothing and leaves no cancellation."""
    async with owner.group(limit=limit) as group:
        children = [start(group, kind, shop.work, x) for x in range(3)]
        await shop.has_started(0)
        group.cancel()
        group.cancel()
        await forever()
    assert all(child.cancelled() for child in children)
    assert sorted(shop.started) == sorted(shop.ended)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)
    group.cancel()  # too late, and harmless


async def test_cancel_leaves_nothing_that_strikes_later():
    """cancel() as the last act of a block without children does not cancel what comes after."""
    async with TaskGroup() as group:
        group.cancel()
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_cancel_before_entering():
    """A group that is cancelled before it is entered is left at the first wait."""
    group = TaskGroup()
    group.cancel()
    async with group:
        await forever()
    with pytest.raises(RuntimeError, match="already been entered"):
        async with group:
            pass


async def test_cancel_does_not_swallow_a_cancellation_from_outside(shop):
    """A cancellation from outside that comes after cancel() goes on."""

    async def slow():
        try:
            await forever()
        finally:
            await shop.work("cleanup")

    async def host():
        async with TaskGroup() as group:
            group.create_task(slow())
            await turns()
            group.cancel()

    task = asyncio.ensure_future(host())
    await shop.has_started("cleanup")
    task.cancel()
    await turns()
    shop.open()
    await ended(task)
    assert task.cancelled()


async def test_cancel_still_raises_what_children_fail_with():
    """A child that fails while its group is being cancelled is heard."""

    async def stubborn():
        try:
            await forever()
        finally:
            raise ValueError("cleanup")

    for kind in ("create_task", "start_soon"):
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                start(group, kind, stubborn)
                await turns()
                group.cancel()


@OWNED
@KINDS
@pytest.mark.parametrize("way", ["await", "gather", "wait_for", "wait", "group"])
async def test_waiting_for_a_child_of_the_own_group_does_not_deadlock(owner, kind, way):
    """A child that creates a child in its own group of limit 1 and waits for it gets its result."""

    async def parent(depth):
        if not depth:
            return 0
        child = start(group, kind, parent, depth - 1)
        if way == "await":
            return 1 + await child
        if way == "gather":
            return 1 + (await asyncio.gather(child))[0]
        if way == "wait_for":
            return 1 + await asyncio.wait_for(child, 60)
        if way == "group":
            async with TaskGroup(limit=1) as inner:
                inner.create_task(wait_for(child))
        else:
            await asyncio.wait([child])
        return 1 + child.result()

    async def wait_for(child):
        await child

    async with owner.group(limit=1) as group:
        child = start(group, kind, parent, 4)
    assert child.result() == 4
    assert group._floor.places.running == 0


@OWNED
@KINDS
async def test_a_failing_child_of_the_own_group(owner, kind):
    """A child that waits for one that fails is cancelled or sees the failure, and all ends."""

    async def parent():
        await start(group, kind, fail)

    with pytest.raises(ExceptionGroup):
        async with owner.group(limit=1) as group:
            start(group, kind, parent)
    assert group._floor.places.running == 0


@KINDS
async def test_children_that_waited_have_their_context_and_name(kind, shop):
    """A child sees the context variables of the moment it was made, and its task has its name."""

    async def look():
        seen.append((VAR.get(), asyncio.current_task().get_name()))
        VAR.set(-1)

    seen = []
    async with TaskGroup(limit=1) as group:
        start(group, kind, shop.work, "first")
        await shop.has_started("first")
        for number in range(3):
            VAR.set(number)
            start(group, kind, look, name=f"child {number}")
        VAR.set(99)
        shop.open()
    assert seen == [(0, "child 0"), (1, "child 1"), (2, "child 2")]
    assert VAR.get() == 99


async def test_a_context_given_to_a_child_that_waited():
    """context= is the very context the child runs in, also when it had to wait."""
    context = contextvars.copy_context()

    async def mark(value):
        VAR.set(value)
        await asyncio.sleep(0)

    async with TaskGroup(limit=1) as group:
        group.create_task(mark(5))
        task = group.create_task(mark(7), context=context)
    assert context[VAR] == 7
    assert task.get_context() is context if sys.version_info >= (3, 12) else task.done()
    assert len(context) <= len(contextvars.copy_context()) + 1


async def test_retries_give_their_place_away(shop):
    """A child that waits out its backoff holds no place of its group."""
    attempts = []

    async def flaky():
        attempts.append(asyncio.current_task())
        if len(attempts) == 1:
            raise ValueError("first")
        return len(attempts)

    retry = Retry(2, wait_initial=0.02, wait_jitter=0)
    async with TaskGroup(limit=1) as group:
        child = group.start_soon(flaky, retry=retry)
        await wait_until(lambda: attempts)
        other = group.start_soon(shop.work, "meanwhile")
        await shop.has_started("meanwhile")
        await wait_until(lambda: child.state == "queued")
        assert len(attempts) == 1
        shop.open()
    assert child.result() == 2 and child.attempts == 2
    assert other.result() == "meanwhile"
    assert group._floor.places.running == 0


@OWNED
async def test_deadlines_count_from_the_start(owner, shop):
    """A child whose deadline passes while it waits for a place fails without having started."""
    with pytest.raises(ExceptionGroup) as caught:
        async with owner.group(limit=1) as group:
            group.start_soon(shop.work, "first")
            await shop.has_started("first")
            group.start_soon(shop.work, "late", deadline=0.01)
    assert isinstance(caught.value.exceptions[0], TaskTimeout)
    assert shop.started == ["first"]


@OWNED
async def test_options_work_under_a_limit(owner):
    """Timeouts, limiters and retries work for children of a limited group."""
    limiter = anyio.CapacityLimiter(1)
    with pytest.raises(ExceptionGroup) as caught:
        async with owner.group(limit=2, on_error="continue") as group:
            first = group.start_soon(double, 4, limiter=limiter, retry=3)
            group.start_soon(forever, timeout=0.01)
            group.start_soon(double, "x", "y")
    assert first.result() == 8
    assert {type(error) for error in caught.value.exceptions} == {TaskTimeout, TypeError}
    with pytest.raises(TypeError, match="limit"):
        async with owner.group(limit=2) as group:
            try:
                group.start_soon(double, 1, limit=1)
            except TypeError as error:
                seen = error
        raise seen


async def test_plain_callables_open_a_pool(gate):
    """Without a pool the first plain callable opens one, and it is gone when the block is left."""
    async with TaskGroup(limit=2) as group:
        first = group.start_soon(jobs.inc, 1)
        second = group.start_soon(jobs.pid)
        third = group.start_soon(double, 4)
    assert isinstance(first, TaskHandle)
    assert (first.result(), third.result()) == (2, 8)
    assert second.pid == second.result()


async def test_cancelling_a_group_stops_its_process_calls(gate):
    """cancel() stops a call that runs in a process and waits until it has stopped."""
    async with TaskGroup(limit=1) as group:
        handle = group.start_soon(jobs.gate, *gate.paths)
        waiting = group.start_soon(jobs.inc, 1)
        await gate.entered()
        group.cancel()
    assert handle.cancelled() and waiting.cancelled()


@OWNED
async def test_a_failure_is_told_once(owner, complaints):
    """A child's failure is raised by the group and not logged as never retrieved."""
    for limit in (None, 1):
        with pytest.raises(ExceptionGroup):
            async with owner.group(limit=limit) as group:
                group.start_soon(fail)
        del group
        gc.collect()
    assert not complaints


@pytest.mark.parametrize("limit", [None, 1])
async def test_a_child_that_cancels_itself(limit):
    """A coroutine given to start_soon that cancels itself is a failure, a task is not."""

    async def give_up():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async with TaskGroup(limit=limit) as group:
        task = group.create_task(give_up())
    assert task.cancelled()
    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        async with TaskGroup(limit=limit) as group:
            group.start_soon(give_up)


async def test_refused_coroutines_are_closed():
    """A coroutine that a group refuses is closed, so nothing warns that it was never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit in (None, 1):
            group = TaskGroup(limit=limit)
            with pytest.raises(RuntimeError, match="not been entered"):
                group.create_task(forever())
            async with group:
                with pytest.raises(TypeError, match="priority"):
                    group.create_task(forever(), priority="high")
            with pytest.raises(RuntimeError, match="finished"):
                group.create_task(forever())
            with pytest.raises(RuntimeError, match="finished"):
                group.start_soon(forever)
        gc.collect()


@pytest.mark.parametrize("limit", [None, 1])
async def test_nothing_is_left_in_cycles(limit):
    """What a group raises is freed with the last reference to it, without garbage collection."""

    class Marked(Exception):
        freed = 0

        def __del__(self):
            Marked.freed += 1

    async def child():
        raise Marked

    for kind in ("create_task", "start_soon"):
        gc.collect()
        gc.disable()
        try:
            Marked.freed = 0
            try:
                async with TaskGroup(limit=limit) as group:
                    start(group, kind, child)
            except ExceptionGroup:
                pass
            del group
            await turns()
            assert Marked.freed == 1, kind
        finally:
            gc.enable()


def test_parameters_are_checked():
    """A parameter out of range is refused by name."""
    with pytest.raises(ValueError, match="on_error"):
        TaskGroup(on_error="ignore")
    with pytest.raises(ValueError, match="limit"):
        TaskGroup(limit=0)
    with pytest.raises(ValueError, match="aging"):
        TaskGroup(aging=-1)


# --- checkpoint -----------------------------------------------------------------------------


@OWNED
@KINDS
async def test_checkpoint_gives_way_to_the_more_important(owner, kind):
    """At a checkpoint a long child lets a more important one run, and goes on in its turn."""
    order = []

    async def long():
        order.append("begin")
        start(group, kind, note, "high", priority=Priority.HIGH)
        start(group, kind, note, "equal")
        await checkpoint()
        order.append("end")

    async def note(x):
        order.append(x)

    async with owner.group(limit=1, aging=math.inf) as group:
        start(group, kind, long)
    assert order == ["begin", "high", "equal", "end"]
    assert group._floor.places.running == 0


async def test_checkpoint_in_a_call_of_a_pool():
    """At a checkpoint a call of a pool lets a more important one run."""
    order = []

    async def long():
        pool.submit(note, "high", priority=Priority.HIGH)
        await checkpoint()
        order.append("end")

    async def note(x):
        order.append(x)

    async with Pool(limit=1, aging=math.inf) as pool:
        await pool.run(long)
    assert order == ["high", "end"]


@KINDS
async def test_checkpoint_passes_by_without_a_reason(kind):
    """A checkpoint does not wait for tasks that are no more important, nor outside of a group."""

    async def child():
        for x in range(3):
            start(group, kind, note, x, priority=x)
        await checkpoint()
        assert not order

    async def note(x):
        order.append(x)

    order = []
    await checkpoint()
    async with TaskGroup(limit=1, aging=math.inf) as group:
        start(group, kind, child)
    assert order == [0, 1, 2]


@KINDS
async def test_cancelled_while_it_gives_way(kind, shop):
    """A child that is cancelled while another has its place ends, and the place is counted once."""

    async def long():
        start(group, kind, shop.work, "high", priority=Priority.HIGH)
        await checkpoint()

    async with TaskGroup(limit=1, aging=math.inf) as group:
        child = start(group, kind, long)
        await shop.has_started("high")
        child.cancel()
        await ended(child)
        assert child.cancelled()
        shop.open()
    assert group._floor.places.running == 0
    group._floor.places.validate()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_eager_tasks_under_a_limit(shop):
    """With an eager task factory a child that has room starts inside create_task."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async with TaskGroup(limit=1) as group:
        first = group.create_task(shop.work(1))
        assert shop.started == [1]
        second = group.create_task(shop.work(2))
        third = group.start_soon(double, 3)
        await turns()
        assert shop.started == [1]
        shop.open()
    assert (first.result(), second.result(), third.result()) == (1, 2, 6)


async def test_a_custom_task_factory_is_honoured(shop):
    """Children are made by the loop's task factory, with a limit or without."""
    made = []

    def factory(loop, coro, **options):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    for limit in (None, 1):
        async with TaskGroup(limit=limit) as group:
            group.create_task(double(1))
            group.start_soon(double, 2)
    assert len(made) == 4


# --- groups within calls of a pool ----------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1, 2])
@KINDS
async def test_children_lend_the_place_of_the_call_they_are_in(kind, limit):
    """A group inside a call of a pool with one place may have children that need that pool."""

    async def call():
        async with TaskGroup(limit=limit) as group:
            children = [start(group, kind, pool.run, double, x) for x in range(3)]
        return [child.result() for child in children]

    async with Pool(limit=1) as pool:
        assert await asyncio.wait_for(pool.run(call), 20) == [0, 2, 4]
        assert pool.statistics().running == 0


@pytest.mark.parametrize("limit", [None, 1, 2])
async def test_a_group_of_the_pool_inside_a_call_of_it(limit):
    """A call of a pool with one place may open a group of that pool and leave it."""

    async def call():
        async with pool.task_group(limit=limit) as group:
            handles = [group.start_soon(double, x) for x in range(3)]
        return [handle.result() for handle in handles]

    async with Pool(limit=1) as pool:
        assert await asyncio.wait_for(pool.run(call), 20) == [0, 2, 4]
        pool._parts.engine.venues["loop"].validate()


async def test_a_call_that_leaves_a_waiting_task_behind():
    """A call that ends while a task of its own waits for the pool gives its place back once."""
    tasks = []

    async def call():
        tasks.append(asyncio.ensure_future(pool.run(double, 1)))
        await asyncio.sleep(0)

    async with Pool(limit=1) as pool:
        await pool.run(call)
        assert await tasks[0] == 2
        venue = pool._parts.engine.venues["loop"]
        assert (venue.running, venue.lent) == (0, 0)


async def test_a_limit_within_the_limit_of_the_pool(shop):
    """Children of a limited group are calls of their pool, whose own limit holds too."""
    async with Pool(limit=2) as pool:
        async with pool.task_group(limit=5) as group:
            handles = [group.start_soon(shop.work, x) for x in range(6)]
            await shop.has_started(0, 1)
            await turns()
            assert shop.most == 2
            assert pool.statistics().running == 2
            shop.open()
        assert [handle.result() for handle in handles] == list(range(6))
        assert pool.statistics().done == 6
        assert shop.most == 2


async def test_closing_the_pool_ends_those_who_wait(shop):
    """Children that wait for a place when their pool is closed without draining are cancelled."""
    async with Pool() as pool:

        async def host():
            async with pool.task_group(limit=1) as group:
                return [group.start_soon(shop.work, x) for x in range(3)]

        task = asyncio.ensure_future(host())
        await shop.has_started(0)
        await pool.aclose(drain=False)
        await ended(task)
        assert all(handle.cancelled() for handle in task.result())
        assert shop.started == shop.ended == [0]


async def test_a_failure_lets_no_waiting_call_start():
    """When a child fails, a plain callable that waits for its place is not called any more."""
    called = []
    async with Pool(1, backend="inline") as pool:
        with pytest.raises(ExceptionGroup):
            async with pool.task_group(limit=1) as group:
                group.start_soon(fail)
                waiting = group.start_soon(called.append, 1)
        assert waiting.cancelled() and not called
