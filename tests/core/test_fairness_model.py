"""Both venues with tenants and views' places, against the model that knows neither heap nor line.

The model knows when each tenant was last served and how many places of each view are taken. It
asks of every call handed out that it is the first of its tenant, as if there were no others; that
nobody waits longer than is promised; and that a tenant that was served lets the others go first.
"""

from dataclasses import dataclass
from math import inf

import pytest
from hypothesis.stateful import invariant, run_state_machine_as_test

from aiopool._core.options import Settings
from aiopool._core.quota import Quota
from tests.core.test_scheduler_model import FEW, Counted, Laned

NEVER = -inf


@dataclass(eq=False)
class Share:
    """The places of a view as the model counts them."""

    capacity: int
    quota: Quota
    running: int = 0


class Tenants:
    """What the models of both venues have in addition."""

    keys = (None, "a", "a", "b")
    capacities = ()

    def begin(self, aging):
        super().begin(aging)
        self.served = {}
        self.shares = [None, *(Share(count, Quota(count)) for count in self.capacities)]
        self.draws = 0

    def settings(self, priority, limit):
        """Keys and shares go round, so every mixture of them comes up."""
        self.draws += 1
        key = self.keys[self.draws * 7 % len(self.keys)]
        self.share = self.shares[self.draws * 5 % len(self.shares)]
        quota = None if self.share is None else self.share.quota
        return Settings(priority=priority, limit=limit, fairness_key=key, quota=quota)

    def new_job(self, *args):
        job = super().new_job(*args)
        job.share = self.share
        if job.workload.settings.fairness_key is not None:
            self.venue.be_fair()
        return job

    def raw(self, job):
        """Its key, as if there were no tenants."""
        return job.priority if self.aging == inf else job.turn + job.priority * self.aging

    def bound(self, job):
        """The key that nobody who goes before it may be beyond."""
        served = self.served.get(key_of(job), NEVER)
        if self.aging == inf:
            return job.priority
        return max(self.raw(job), served + job.priority * self.aging)

    def check_turn(self, job):
        for other in self.jobs:
            if other.ready and self.is_exact(job, other):
                if key_of(other) == key_of(job) is not None:
                    assert (self.raw(job), job.turn) <= (self.raw(other), other.turn)
                elif other is not job:
                    assert self.raw(job) <= self.bound(other)
                    self.check_lag(job, other)
        self.served[key_of(job)] = self.now
        self.served.pop(None, None)

    @invariant()
    def forget(self):
        """A tenant of which nothing waits begins anew; what is given back later has its old age."""
        waiting = {each.settings.fairness_key for each in self.venue.queue}
        self.served = {key: when for key, when in self.served.items() if key in waiting}

    def is_exact(self, job, other):
        """Whether the two are in one queue for sure, and not one of them in a line of a view."""
        return job.share is other.share is None or key_of(job) is key_of(other) is None

    def check_lag(self, job, other):
        """A tenant goes before another only by its most important call and its last turn."""
        if key_of(job) is None or self.aging == inf:
            return
        mine = [each for each in self.jobs if key_of(each) == key_of(job) and not each.stopped]
        served = self.served.get(key_of(job), NEVER)
        assert served + min(each.priority for each in mine) * self.aging <= self.bound(other)

    def check_rest(self):
        super().check_rest()
        self.forget()
        for share in self.shares[1:]:
            assert share.quota.running == share.running
        parked = [job.workload for job in self.jobs if job.workload.parked]
        lines = [share.quota.lines.get(self.venue, ()) for share in self.shares[1:]]
        assert self.venue.parked == len(parked) == sum(map(len, lines))
        for line in filter(len, lines):
            line.validate()
        assert {each for line in lines for each in line} == set(parked)


class Views(Tenants):
    """Views with a limit, none of them a tenant's."""

    keys = (None,)
    capacities = (1, 3)


class Both(Tenants):
    """Tenants and views with limits, in any mixture."""

    capacities = (1, 3)

    def is_exact(self, job, other):
        """In a line of tenants the first is let in, and has its tenant's place in the queue."""
        return job.share is other.share is None


def key_of(job):
    return job.workload.settings.fairness_key


@pytest.mark.parametrize("additions", [Tenants, Views, Both])
@pytest.mark.parametrize("venue", [Counted, Laned])
def test_tenants_and_views_follow_the_model(additions, venue):
    """Tenants take turns within the bound promised, views keep to their limits, no call is lost."""
    kind = type(f"{additions.__name__}{venue.__name__}", (additions, venue), {})
    run_state_machine_as_test(kind, settings=FEW)
