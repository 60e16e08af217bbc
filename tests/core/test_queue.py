from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopool._core.estimate import Estimate
from aiopool._core.options import Settings
from aiopool._core.queue import TurnQueue
from aiopool._core.workload import Workload


def workload(name="w", *, turn=0.0, priority=0):
    """A workload whose turn came at `turn`."""
    return Workload(
        None,
        Settings(priority=priority),
        name=name,
        venue="",
        sink=None,
        now=turn,
        cost=Estimate(),
    )


def queue_of(workloads, *, aging=1.0):
    """A queue they were put in one after the other."""
    queue = TurnQueue(aging)
    for each in workloads:
        queue.push(each)
        queue.validate()
    return queue


def drain(queue):
    """The names of all in it, in the order of their turns."""
    names = []
    while (head := queue.peek()) is not None:
        names.append(head.name)
        queue.remove(head)
        queue.validate()
    assert len(queue) == 0
    return "".join(names)


# --- the order ------------------------------------------------------------------------------


def test_an_empty_queue_has_no_head():
    """Nobody's turn it is in an empty queue."""
    queue = TurnQueue(1.0)
    assert queue.peek() is None
    assert len(queue) == 0
    assert list(queue) == []


def test_peek_leaves_the_head_where_it_is():
    """Looking at the head does not take it out."""
    queue = queue_of([workload("a"), workload("b", turn=1)])
    assert queue.peek() is queue.peek()
    assert len(queue) == 2


def test_lower_priorities_come_first():
    """Of workloads of one age the lower number comes first."""
    queue = queue_of([workload("c", priority=7), workload("a", priority=-5), workload("b")])
    assert drain(queue) == "abc"


@pytest.mark.parametrize(("later", "first"), [(9, "new"), (11, "old")])
def test_age_makes_up_for_priority(later, first):
    """Aging seconds of age weigh as much as one step of priority."""
    old = workload("old", turn=0, priority=4)
    new = workload("new", turn=later, priority=-1)
    assert queue_of([new, old], aging=2.0).peek().name == first


def test_equal_keys_are_served_by_age():
    """Of equal keys with different priorities the older workload comes first."""
    young = workload("young", turn=10, priority=0)
    old = workload("old", turn=0, priority=10)
    assert queue_of([young, old]).peek() is old


@pytest.mark.parametrize("aging", [0.0, 0.5, 1.0, inf])
def test_equals_are_first_in_first_out(aging):
    """Workloads of equal age and priority come in the order they were put in."""
    names = "hgfedcba"
    queue = queue_of([workload(name, turn=3, priority=2) for name in names], aging=aging)
    assert drain(queue) == names


def test_infinite_aging_is_strict_priority():
    """With infinite aging no age makes up for priority, and equals go by age."""
    queue = queue_of(
        [
            workload("d", turn=0, priority=1),
            workload("c", turn=1e9),
            workload("b", turn=0),
            workload("a", turn=2e9, priority=-1),
        ],
        aging=inf,
    )
    assert drain(queue) == "abcd"


def test_no_aging_is_first_come_first_served():
    """Without aging priorities count for nothing, only age does."""
    queue = queue_of(
        [workload("b", turn=1, priority=-(2**63)), workload("a", turn=0, priority=2**63)],
        aging=0.0,
    )
    assert drain(queue) == "ab"


@pytest.mark.parametrize("aging", [1.0, 1e300, inf])
def test_the_widest_priorities_have_an_order(aging):
    """Priorities and aging may be as wide as options allow, and ages still count among equals."""
    queue = queue_of(
        [
            workload("d", turn=2e6, priority=2**63),
            workload("c", turn=1e6, priority=2**63),
            workload("b", turn=2e6, priority=-(2**63)),
            workload("a", turn=1e6, priority=-(2**63)),
        ],
        aging=aging,
    )
    assert drain(queue) == "abcd"


def test_the_key_does_not_change_with_time():
    """A change of turn or priority moves nothing until the workload is put in again."""
    a, b = workload("a", turn=0), workload("b", turn=1)
    queue = queue_of([a, b])
    a.priority, a.turn = 20, 100.0
    assert queue.peek() is a
    queue.push(a)
    assert queue.peek() is b


# --- moving and removing --------------------------------------------------------------------


def test_push_moves_what_is_in_already():
    """Putting in a workload twice moves it and does not double it."""
    a, b, c = (workload(name) for name in "abc")
    queue = queue_of([a, b, c])
    b.priority = -1
    queue.push(b)
    a.turn = 5.0
    queue.push(a)
    queue.validate()
    assert len(queue) == 3
    assert sorted(each.name for each in queue) == ["a", "b", "c"]
    assert drain(queue) == "bca"


def test_a_workload_put_in_again_is_last_of_its_equals():
    """One that goes back with the same key goes behind its equals."""
    a, b = workload("a"), workload("b")
    queue = queue_of([a, b])
    queue.push(a)
    assert drain(queue) == "ba"


@pytest.mark.parametrize("gone", "abc")
def test_removed_workloads_have_no_turn(gone):
    """A removed workload is skipped, wherever it stood."""
    workloads = {name: workload(name, turn=place) for place, name in enumerate("abc")}
    queue = queue_of(workloads.values())
    queue.remove(workloads[gone])
    queue.validate()
    assert len(queue) == 2
    assert workloads[gone] not in list(queue)
    assert drain(queue) == "abc".replace(gone, "")


def test_removing_is_idempotent():
    """Removing what is not in the queue does nothing."""
    a, b = workload("a"), workload("b")
    queue = queue_of([a, b])
    for _ in range(3):
        queue.remove(a)
    queue.remove(workload("c"))
    queue.validate()
    assert drain(queue) == "b"


def test_a_removed_workload_may_come_back():
    """Its stale entry does not count again when a removed workload is put in anew."""
    a, b = workload("a", turn=0), workload("b", turn=1)
    queue = queue_of([a, b])
    queue.remove(a)
    a.turn = 2.0
    queue.push(a)
    queue.validate()
    assert drain(queue) == "ba"


def test_removing_sweeps_the_heap():
    """After a storm of cancels the heap holds little more than what is left."""
    workloads = [workload(turn=7919 * number % 500) for number in range(500)]
    queue = queue_of(workloads[:1])
    for each in workloads[1:]:
        queue.push(each)
    for each in workloads[30:]:
        queue.remove(each)
        queue.validate()
    assert len(queue) == 30
    assert len(queue._heap) < 150
    assert queue.peek() is min(workloads[:30], key=lambda each: each.turn)


def test_moving_does_not_grow_the_heap():
    """However often workloads are moved, the heap holds little more than they are."""
    workloads = [workload(turn=turn) for turn in range(5)]
    queue = queue_of(workloads)
    for priority in range(2000):
        workloads[priority % 4 + 1].priority = priority
        queue.push(workloads[priority % 4 + 1])
    queue.validate()
    assert len(queue._heap) < 200


def test_validate_sees_a_broken_heap():
    """Entries that are no heap are found out."""
    queue = queue_of([workload(turn=turn) for turn in range(5)])
    queue._heap.reverse()
    with pytest.raises(AssertionError):
        queue.validate()


def test_validate_sees_a_wrong_count():
    """A workload that left without being removed is found out."""
    a = workload()
    queue = queue_of([a])
    a.entry = None
    with pytest.raises(AssertionError):
        queue.validate()


# --- against a plain list -------------------------------------------------------------------

changes = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "remove", "pop"]),
        st.integers(0, 5),
        st.integers(-3, 3),
        st.integers(0, 8),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(aging=st.sampled_from([0.0, 0.5, 2.0, inf]), changes=changes)
def test_the_queue_is_a_sorted_list(aging, changes):
    """Whatever is done to it, its head is the first of a sorted list of what is in it."""
    workloads = [workload(str(number)) for number in range(6)]
    queue = TurnQueue(aging)
    naive = {}
    for order, (change, number, priority, turn) in enumerate(changes):
        each = workloads[number]
        if change == "push":
            each.priority, each.turn = priority, float(turn)
            key = priority if aging == inf else turn + priority * aging
            naive[each] = (key, turn, order)
            queue.push(each)
        elif change == "remove":
            naive.pop(each, None)
            queue.remove(each)
        elif naive:
            head = queue.peek()
            del naive[head]
            queue.remove(head)
        queue.validate()
        assert queue.peek() is min(naive, key=naive.get, default=None)
        assert set(queue) == set(naive)
        assert len(queue) == len(naive)
