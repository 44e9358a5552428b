"""However late, lost or out of order requests are, and however uneven the clocks: never two nodes use one Lease."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvctl.election.elector import Candidacy
from kvctl.election.terms import Terms
from tests.election.world import Member, World, world

WHO = st.integers(0, 2)
MANY = settings(max_examples=30, stateful_step_count=50, deadline=None)


class Election(RuleBasedStateMachine):
    """Three nodes; each rule is something that may happen at any time."""

    world: World

    @initialize(
        rates=st.tuples(*[st.sampled_from((0.99, 1.0, 1.01))] * 3),
        terms=st.sampled_from((Terms(), Terms(3, 2, 1))),
        chance=st.sampled_from((0.0, 0.5, 0.99)),
        here=st.lists(st.booleans(), min_size=3, max_size=3),
    )
    def begin(self, rates: tuple[float, ...], terms: Terms, chance: float, here: list[bool]) -> None:
        self.world = world(*rates, terms=terms, chance=chance)
        for who, wants in enumerate(here):
            if not wants:
                self.want(who, None)

    def member(self, who: int) -> Member:
        return self.world.members[who]

    def now(self, who: int) -> float:
        return self.member(who).now(self.world)

    @rule(periods=st.sampled_from((0.1, 0.5, 0.9, 2.0, 4.0, 8.0)))
    def time_goes_by(self, periods: float) -> None:
        self.world.time += periods * self.world.terms.retry_period

    @rule(who=WHO, whole=st.booleans())
    def send(self, who: int, whole: bool) -> None:
        self.member(who).think(self.world)
        self.member(who).send(self.world)
        if whole and (request := self.member(who).waiting) is not None:
            if request in self.world.network:
                self.world.arrive(request)
            self.member(who).hear(self.world)

    @rule(who=WHO, periods=st.integers(1, 10))
    def alone_all_goes_well(self, who: int, periods: int) -> None:
        """The others are stopped, or cut off, meanwhile."""
        for _ in range(periods * 3):
            self.world.time += self.world.terms.retry_period / 3
            for _ in range(3):
                self.send(who, True)
            self.one_uses_it_at_most()

    @rule(who=WHO)
    def stop_before_sending(self, who: int) -> None:
        self.member(who).think(self.world)

    @precondition(lambda self: self.world.network)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        self.world.arrive(data.draw(st.sampled_from(self.world.network)))

    @precondition(lambda self: self.world.network)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.world.network.remove(data.draw(st.sampled_from(self.world.network)))

    @rule(who=WHO)
    def hear(self, who: int) -> None:
        self.member(who).hear(self.world)

    @rule(who=WHO)
    def despair(self, who: int) -> None:
        self.member(who).despair(self.world)

    @rule(who=WHO)
    def tear_down(self, who: int) -> None:
        self.member(who).elector.torn_down(now=self.now(who))

    @rule(who=WHO, candidacy=st.sampled_from((None, Candidacy(ready=True), Candidacy(ready=False))))
    def want(self, who: int, candidacy: Candidacy | None) -> None:
        self.member(who).elector.want(candidacy, now=self.now(who))

    @rule(who=WHO)
    def give_up(self, who: int) -> None:
        self.member(who).elector.give_up("drained", now=self.now(who))

    @rule(who=WHO)
    def wake(self, who: int) -> None:
        self.member(who).elector.wake(now=self.now(who))

    @precondition(lambda self: self.world.server.lease is not None)
    @rule(who=st.integers(0, 3))
    def ask_to_move(self, who: int) -> None:
        assert self.world.server.lease is not None
        self.world.server.store(self.world.server.lease._replace(move_to=f"node-{who}"))

    # A node that has never seen the Lease cannot know that there was one: see `Observed`.
    @precondition(lambda self: all(member.elector.holder is not None for member in self.world.members))
    @rule()
    def delete_by_hand(self) -> None:
        self.world.server.lease = None
        self.world.network[:] = [
            r for r in self.world.network if r.ask.lease.version or not r.ask.lease.holder
        ]

    @invariant()
    def one_uses_it_at_most(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.users()) <= 1, self.world.users()

    def teardown(self) -> None:
        """Once all goes well again, somebody who wants it has it."""
        if not hasattr(self, "world"):
            return
        for who, member in enumerate(self.world.members):
            member.send(self.world)
            member.despair(self.world)
            if who == 0:
                member.elector.want(None, now=self.now(0))
                member.elector.want(Candidacy(ready=True), now=self.now(0))
        self.world.network.clear()
        self.world.run(2.0 * self.world.terms.duration + 10 * self.world.terms.retry_period, step=0.2)
        assert len(self.world.users()) == 1
        assert not any(member.elector.leaving for member in self.world.members)


Election.TestCase.settings = MANY
TestNeverTwo = Election.TestCase
