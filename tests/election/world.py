"""Electors of several nodes, each with a clock of its own, and a server at the end of a bad network.

Nothing happens by itself: who drives it says whose turn it is, which request arrives when, and which never does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvctl.cluster.leases import Lease
from kvctl.election.asks import Ask, Purpose
from kvctl.election.elector import Candidacy, Elector
from kvctl.election.terms import Terms
from kvctl.model.lease import LeaseKey

KEY = LeaseKey("sip", "kubevip-sip-client")
Answer = Lease | int | None
"""A Lease, a status of refusal, or (to a look) no Lease."""


@dataclass
class Server:
    """Keeps one Lease as Kubernetes does: every write names the version it builds on."""

    lease: Lease | None = None
    version: int = 0

    def answer(self, ask: Ask) -> Answer:
        """Do what is asked."""
        there, wanted = self.lease, ask.lease
        if ask.purpose is Purpose.LOOK:
            return there
        if not wanted.version:
            return 409 if there is not None else self.store(wanted._replace(uid=f"uid-{self.version}"))
        if there is None:
            return 404
        if (there.version, there.uid) != (wanted.version, wanted.uid):
            return 409
        return self.store(wanted)

    def store(self, lease: Lease) -> Lease:
        """Put it there, at a new version."""
        self.version += 1
        self.lease = lease._replace(version=str(self.version))
        return self.lease


@dataclass(eq=False)
class Request:
    """One on its way."""

    ask: Ask
    sent: float
    answer: Answer = None
    arrived: bool = False


@dataclass(eq=False)
class Member:
    """A node: `rate` is how fast its clock goes."""

    name: str
    elector: Elector
    rate: float = 1.0
    offset: float = 0.0
    draft: Ask | None = None
    """Made up, but not sent yet."""
    waiting: Request | None = None

    def now(self, world: World) -> float:
        return self.offset + world.time * self.rate

    def uses(self, world: World) -> bool:
        """Whether anything here may use the address still: until it is torn down, or the kernel's fence falls."""
        now = self.now(world)
        return self.elector.ends > now or self.elector.holding(now=now) is not None

    def think(self, world: World) -> None:
        if self.draft is None and self.waiting is None:
            self.draft = self.elector.next(now=self.now(world), wall=f"{world.time:.6f} {self.name}")

    def send(self, world: World) -> None:
        if self.draft is None:
            return
        ask, self.draft = self.draft, None
        if self.now(world) >= ask.not_after:
            self.elector.failed("too late", now=self.now(world))
            return
        self.waiting = Request(ask, sent=self.now(world))
        world.network.append(self.waiting)

    def hear(self, world: World) -> None:
        """The answer, if there is one by now."""
        request, now = self.waiting, self.now(world)
        if request is None or not request.arrived:
            return
        self.waiting = None
        answer, ask = request.answer, request.ask
        if answer == 409:
            self.elector.conflicted(now=now)
        elif isinstance(answer, int) or answer is None or ask.purpose is Purpose.LOOK:
            self.elector.read(answer if isinstance(answer, Lease) else None, now=now)
        else:
            self.elector.granted(answer, sent=request.sent, now=now)

    def despair(self, world: World) -> None:
        """Wait no longer; the request may arrive yet."""
        if self.waiting is not None:
            self.waiting = None
            self.elector.failed("no answer", now=self.now(world))


@dataclass
class World:
    """The nodes, the server, and what is on its way to it."""

    terms: Terms
    members: list[Member]
    server: Server = field(default_factory=Server)
    network: list[Request] = field(default_factory=list)
    time: float = 0.0

    def arrive(self, request: Request) -> None:
        self.network.remove(request)
        request.answer, request.arrived = self.server.answer(request.ask), True

    def users(self) -> list[str]:
        return [member.name for member in self.members if member.uses(self)]

    def run(self, seconds: float, *, step: float = 0.05) -> None:
        """Let everything go well."""
        end = self.time + seconds
        while self.time < end:
            for member in self.members:
                member.elector.tick(now=member.now(self))
                member.elector.torn_down(now=member.now(self))
                member.think(self)
                member.send(self)
                while self.network:
                    self.arrive(self.network[0])
                member.hear(self)
                assert len(self.users()) <= 1, self.users()
            self.time += step


def world(*rates: float, terms: Terms = Terms(), chance: float = 0.5) -> World:  # noqa: B008 (a value)
    """As many nodes as rates; all of them want the Lease."""
    members = []
    for number, rate in enumerate(rates):
        name = f"node-{number}"
        elector = Elector(KEY, node=name, terms=terms, chance=lambda: chance)
        members.append(Member(name, elector, rate=rate, offset=1000.0 * number))
    made = World(terms, members)
    for member in members:
        member.elector.want(Candidacy(ready=True), now=member.now(made))
    return made
