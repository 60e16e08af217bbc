from math import inf

import pytest

from aiopool._core.estimate import Estimate
from aiopool._core.fairness import FairQueue
from aiopool._core.options import Settings
from aiopool._core.queue import TurnQueue
from aiopool._core.quota import Quota
from aiopool._core.scheduler import CountedVenue
from aiopool._core.workload import Workload


def call(name, tenant=None, *, at=0.0, priority=0, quota=None):
    """A workload of one call, submitted at that time."""
    job = Workload(
        None,
        Settings(priority=priority, fairness_key=tenant, quota=quota),
        name=name,
        venue="",
        sink=None,
        now=at,
        cost=Estimate(),
    )
    job.hold(())
    return job


def fair(places=1, *, aging=1.0):
    """A venue in which tenants take turns."""
    venue = CountedVenue(places, aging)
    venue.be_fair()
    return venue


def start(venue, now):
    batches = list(venue.assign(now))
    venue.validate()
    return batches


def run(venue, *, now=0.0, until=None, arrivals=()):
    """The names in the order they run in one place, a second each; arrivals come in between."""
    order, coming = [], sorted(arrivals, key=lambda job: job.since)
    while until is None or now < until:
        while coming and coming[0].since <= now:
            venue.wake(coming.pop(0))
        batches = start(venue, now)
        if not batches:
            return order
        order += [batch.workload.name for batch in batches]
        now += 1.0
        for batch in batches:
            venue.settle(batch)
    return order


def test_tenants_take_turns():
    """Calls of three tenants run one of each in turn, each tenant's own in order."""
    venue = fair()
    for tenant in "abc":
        for number in range(3):
            venue.wake(call(f"{tenant}{number}", tenant))
    assert run(venue) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_ten_thousand_calls_hold_up_a_single_one_by_one():
    """A tenant's one call comes after one more call of a tenant that has submitted 10,000."""
    venue = fair()
    for number in range(10_000):
        venue.wake(call(f"a{number}", "a"))
    order = run(venue, until=60, arrivals=[call("b", "b", at=50.5)])
    assert order[50:54] == ["a50", "b", "a51", "a52"] or order[50:53] == ["a50", "a51", "b"]


def test_who_has_no_tenant_counts_for_one():
    """A call without a key waits behind one call of a tenant with many, as another tenant would."""
    venue = fair()
    for number in range(100):
        venue.wake(call(f"a{number}", "a"))
    assert run(venue, until=30, arrivals=[call("x", at=20.5)]).index("x") <= 22


@pytest.mark.parametrize("aging", [0.0, 0.5, 2.0, inf])
def test_one_tenant_alone_has_the_order_of_none(aging):
    """The calls of a single tenant run in the very order they would without a key."""
    orders = []
    for tenant in ("a", None):
        venue = fair(aging=aging)
        jobs = [
            call(str(n), tenant, at=float(7 * n % 40), priority=n * n % 11 - 5) for n in range(40)
        ]
        orders.append(run(venue, now=0.5, arrivals=jobs))
    assert orders[0] == orders[1]
    assert len(orders[0]) == 40


def test_urgent_calls_go_before_other_tenants():
    """An urgent call of the busiest tenant goes before normal calls of the others."""
    venue = fair()
    for number in range(50):
        venue.wake(call(f"a{number}", "a"))
        venue.wake(call(f"b{number}", "b"))
    order = run(venue, until=30, arrivals=[call("urgent", "a", at=10.5, priority=-20)])
    assert order[11] == "urgent"


def test_an_urgent_call_lends_its_importance_to_those_before_it():
    """An aged call before an urgent one of its tenant is served with the importance of that."""
    venue = fair()
    venue.wake(call("low", "a", at=-100.0, priority=10))
    venue.wake(call("low too", "a", at=-100.0, priority=10))
    for number in range(200):
        venue.wake(call(f"b{number}", "b", at=-200.0))
    order = run(venue, until=40, arrivals=[call("urgent", "a", at=5.0, priority=-20)])
    assert order[:5] == ["b0", "low", "b1", "b2", "b3"]
    assert order[5:7] == ["low too", "urgent"]


@pytest.mark.parametrize("aging", [0.5, 1.0])
def test_the_least_important_waits_for_its_difference_in_priority(aging):
    """A call waits behind newer, more important ones for its difference in priority times aging."""
    venue = fair(aging=aging)
    arrivals = [call(f"a{second}", "a", at=float(second)) for second in range(100)]
    venue.wake(call("low", "b", priority=20))
    place = run(venue, until=90, arrivals=arrivals).index("low")
    assert place == pytest.approx(20 * aging, abs=1)


def test_priority_and_cancellation_of_what_waits():
    """A tenant's waiting calls can be moved and taken out, the last of them too."""
    venue = fair()
    first, second, third, other = (call(n, t) for n, t in zip("abcd", "xxxy", strict=True))
    for each in (first, second, third, other):
        venue.wake(each)
    third.priority = -5
    venue.moved(third)
    venue.drop(first)
    venue.queue.validate()
    assert venue.queue.peek() is third
    venue.drop(third)
    venue.drop(second)
    venue.queue.validate()
    assert run(venue) == ["d"]
    assert len(venue.queue) == 0


def test_the_cost_does_not_grow_with_what_waits():
    """However often calls of many priorities come and go, a tenant keeps no more than waits."""
    queue = FairQueue(TurnQueue(1.0))
    kept = [call("k", "a", priority=-99), call("l", "a")]
    for each in kept:
        queue.push(each)
    for number in range(5000):
        job = call("m", "a", at=float(number), priority=number % 7)
        queue.push(job)
        queue.served(job, float(number))
        queue.remove(job)
    queue.validate()
    [tenant] = queue._tenants.values()
    assert len(tenant._levels) <= 9
    assert len(queue._turns._heap) < 200
    assert len(tenant.queue._heap) < 200


def test_validate_sees_a_tenant_in_the_wrong_place():
    """A tenant whose key is not that of what waits in it is found out."""
    queue = FairQueue(TurnQueue(1.0))
    queue.push(call("a", "x"))
    [tenant] = queue._tenants.values()
    tenant.served = 5.0
    with pytest.raises(AssertionError):
        queue.validate()


# --- the places of a view -------------------------------------------------------------------


def test_a_quota_counts_across_venues():
    """What runs in one venue takes a place from calls that wait in another."""
    quota = Quota(2)
    loop, threads = CountedVenue(5, 1.0), CountedVenue(5, 1.0)
    for number in range(3):
        loop.wake(call(f"l{number}", quota=quota))
    threads.wake(call("t", quota=quota))
    running = start(loop, 0.0)
    assert [batch.workload.name for batch in running] == ["l0", "l1"]
    assert start(threads, 0.0) == []
    assert (loop.parked, threads.parked) == (1, 1)
    loop.settle(running[0])
    assert [batch.workload.name for batch in start(threads, 1.0)] == ["t"]
    assert start(loop, 1.0) == []


def test_a_full_quota_holds_nobody_else_up():
    """Calls behind those of a view that has no place left start at once."""
    quota = Quota(1)
    venue = CountedVenue(3, 1.0)
    for number in range(5):
        venue.wake(call(f"v{number}", quota=quota))
    venue.wake(call("other", priority=10))
    assert [batch.workload.name for batch in start(venue, 0.0)] == ["v0", "other"]


def test_tenants_take_turns_within_a_view():
    """Where a view's places are what is scarce, its tenants have them in turn."""
    quota = Quota(1)
    venue = fair(places=10)
    for number in range(50):
        venue.wake(call(f"a{number}", "a", quota=quota))
    order = run(venue, until=30, arrivals=[call("b", "b", at=20.5, quota=quota)])
    assert order.index("b") <= 22


def test_a_dropped_call_passes_the_free_place_on():
    """When a call that was let back into the queue is stopped the next of its view is let in."""
    quota = Quota(1)
    venue = CountedVenue(1, 1.0)
    jobs = [call(name, quota=quota) for name in "abc"]
    for each in jobs:
        venue.wake(each)
    [batch] = start(venue, 0.0)
    venue.capacity = 2
    assert start(venue, 0.0) == []
    venue.settle(batch)
    jobs[1].stop(None)
    venue.drop(jobs[1])
    assert [each.workload.name for each in start(venue, 1.0)] == ["c"]
