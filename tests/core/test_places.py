"""The line for the places of a task group: its order is that of the pool's queue."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._core.places import Places


class Guest:
    """Somebody who waits."""

    def __init__(self, name, since=0.0, priority=0):
        self.name = name
        self.since = since
        self.priority = priority
        self.lined = False

    def enter(self):
        pass


def line_of(*guests, capacity=inf, aging=1.0):
    places = Places(capacity, aging)
    for guest in guests:
        places.push(guest)
        places.validate()
    return places


def drain(places):
    names = []
    while (guest := places.take()) is not None:
        names.append(guest.name)
        places.validate()
    return names


def test_no_more_than_there_are_places():
    """Only as many are let in as there are places, and nobody if nobody waits."""
    places = line_of(Guest("a"), Guest("b"), capacity=1)
    assert places.take().name == "a"
    assert places.take() is None
    places.running -= 1
    assert places.take().name == "b"
    assert places.peek() is None


@pytest.mark.parametrize(("aging", "order"), [(inf, "cab"), (1.0, "acb"), (0.0, "abc")])
def test_priority_with_aging(aging, order):
    """The key is the time of coming plus the priority in steps of ``aging`` seconds."""
    guests = Guest("a", 0.0, 0), Guest("b", 5.0, 10), Guest("c", 9.0, -5)
    assert "".join(drain(line_of(*guests, aging=aging))) == order


def test_an_old_one_that_comes_again_goes_before_younger_ones():
    """Who lines up again has the place of its age among those of its priority."""
    places = line_of(Guest("b", 2.0), Guest("c", 3.0))
    places.push(Guest("a", 1.0))
    places.validate()
    assert drain(places) == ["a", "b", "c"]


def test_a_new_priority_moves():
    """Who is given another priority in line stands where it belongs by that."""
    guest = Guest("b", 2.0)
    places = line_of(Guest("a", 1.0), guest, aging=inf)
    guest.priority = -1
    places.reprioritise(guest, 0)
    places.validate()
    assert drain(places) == ["b", "a"]


def test_outranking():
    """Only the next in line outranks, and only if it is more important."""
    places = line_of(Guest("old", 0.0, 5), Guest("new", 100.0, -5))
    assert not places.outranks(5)
    assert places.outranks(6)
    assert not places.outranks(-5)
    assert line_of(Guest("new", 100.0, -5)).outranks(5)


GUESTS = st.lists(
    st.tuples(st.integers(0, 20).map(float), st.integers(-2, 2), st.booleans()), max_size=200
)


@given(GUESTS, st.sampled_from([0.0, 1.0, 3.0, inf]))
def test_the_order_is_that_of_the_keys(rows, aging):
    """Whoever leaves, all others are let in by key, by age, and by order of coming."""
    guests = [Guest(place, since, rank) for place, (since, rank, _) in enumerate(rows)]
    places = line_of(*guests, aging=aging)
    stay = []
    for guest, (_, _, leaves) in zip(guests, rows, strict=True):
        if leaves:
            places.remove(guest)
            places.validate()
        else:
            stay.append(guest)

    def key(guest):
        if aging == inf:
            return guest.priority, guest.since, guest.name
        return guest.since + guest.priority * aging, guest.since, guest.priority, guest.name

    def shown(guest):
        return key(guest)[:2]

    drained = [guests[name] for name in drain(places)]
    assert [shown(guest) for guest in drained] == [shown(guest) for guest in sorted(stay, key=key)]
    for rank in range(-2, 3):
        mine = [(guest.since, guest.name) for guest in drained if guest.priority == rank]
        assert mine == sorted(mine)
