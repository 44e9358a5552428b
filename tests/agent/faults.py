"""What can go wrong between an agent and its API server, and in its kernel, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.model.rules import HOOK_CHAIN
from kvctl.netfilter.kernel import Kernel, RestoreError, Write
from tests.agent.world import KINDS, Choose, Step, World
from tests.apiserver import Body, Cut, Drip, Drop, End, Fault, Hang, Request, Status

FAULTS: tuple[Fault, ...] = (
    Drop(),
    Cut(),
    End(),
    Hang(),
    Drip(),
    Status(500, "InternalError"),
    Status(429, "TooManyRequests", retry_after=1),
    Status(401, "Unauthorized"),
    Status(403, "Forbidden"),
    Status(410, "Expired"),
    Status(504, "Timeout"),
    Body(b"{nonsense"),
    Body(b'{"type": "MODIFIED"}'),
)


@dataclass(frozen=True)
class Fail:
    """The next requests for a kind fail so: lists, pages of lists and watches."""

    kind: str
    fault: Fault
    times: int

    def do(self, world: World) -> None:
        """As Step."""
        world.faults += 1

        def on(request: Request) -> bool:
            return request.resource == self.kind

        world.server.fail(self.fault, on=on, times=self.times)


@dataclass(frozen=True)
class Upset:
    """It happens in the watches of a kind that are open."""

    kind: str
    fault: Fault

    def do(self, world: World) -> None:
        """As Step."""
        world.faults += 1
        world.server.upset(self.kind, self.fault)


@dataclass(frozen=True)
class Compact:
    """The server forgets its history, and ends watches so that it shows."""

    kind: str

    def do(self, world: World) -> None:
        """As Step."""
        world.faults += 1
        world.server.compact()
        world.server.upset(self.kind, End())


def api_fault(choose: Choose) -> Step:
    """Something that goes wrong between the agent and the API server."""
    kind = choose(KINDS)
    match choose(("fail", "upset", "upset", "compact")):
        case "fail":
            return Fail(kind, choose(FAULTS), choose((1, 2, 3)))
        case "upset":
            return Upset(kind, choose(FAULTS))
    return Compact(kind)


# The kernel. ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Harm:
    """Another program, or a hand, does something to the rules."""

    kind: str
    family: Family
    which: int = 0

    def do(self, world: World) -> None:
        """As Step."""
        world.harms += 1
        _HARMS[self.kind](world, self)
        world.noted()


def _flush(world: World, harm: Harm) -> None:
    world.node.iptables("-F", family=harm.family, table=("nat", "mangle")[harm.which % 2])


def _flush_ruleset(world: World, harm: Harm) -> None:
    if world.node.backend == "nft":
        world.node.run("nft", "flush", "ruleset")
    else:
        _flush(world, harm)


def _delete_a_rule(world: World, harm: Harm) -> None:
    rules = world.ours(harm.family)
    if rules:
        table, chain, rule = rules[harm.which % len(rules)]
        # The agent may have taken it away since.
        _try(world, f"*{table}\n-D {chain} {rule}\nCOMMIT\n", harm.family)


def _empty_a_chain(world: World, harm: Harm) -> None:
    rules = [each for each in world.ours(harm.family) if each[1] != HOOK_CHAIN]
    if rules:
        table, chain, _ = rules[harm.which % len(rules)]
        _try(world, f"*{table}\n-F {chain}\nCOMMIT\n", harm.family)


def _strange_rule(world: World, harm: Harm) -> None:
    rules = [each for each in world.ours(harm.family) if each[1] != HOOK_CHAIN]
    if rules:
        table, chain, _ = rules[harm.which % len(rules)]
        _try(world, f"*{table}\n-I {chain} 1 -p tcp -j RETURN\nCOMMIT\n", harm.family)


def _push_down(world: World, harm: Harm) -> None:
    network = "10.0.0.0/16" if harm.family is Family.IPV4 else "fd00:10::/48"
    rule = (f"-s {network} -j MASQUERADE", "-p tcp -j ACCEPT")[harm.which % 2]
    world.node.iptables("-I", HOOK_CHAIN, "1", *rule.split(), family=harm.family)


def _clumsy(world: World, harm: Harm) -> None:
    world.clumsiness.append(("before", "halfway", "after", "refused")[harm.which % 4])


def _try(world: World, text: str, family: Family) -> None:
    name = f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{world.node.backend}-restore"
    world.node.namespace.run([name, "--noflush", "-w", "10"], stdin=text)


_HARMS: Mapping[str, Callable[[World, Harm], None]] = {
    "flush": _flush,
    "flush-ruleset": _flush_ruleset,
    "delete": _delete_a_rule,
    "empty": _empty_a_chain,
    "stranger": _strange_rule,
    "push": _push_down,
    "clumsy": _clumsy,
}
HARMS = tuple(_HARMS)
FROM_OUTSIDE = tuple(kind for kind in HARMS if kind != "clumsy")
"""What can be done to an agent that is a process of its own."""


def harm(choose: Choose, *, kinds: Sequence[str] = (*HARMS, "clumsy")) -> Step:
    """Something that goes wrong in the kernel."""
    return Harm(choose(kinds), choose(tuple(Family)), choose(range(24)))


def clumsy(world: World, write: Callable[..., Write]) -> Callable[..., Write]:
    """`Kernel.write` that fails as `world.clumsiness` says, once for each word of it."""

    def clumsily(kernel: Kernel, family: Family, text: str, **more: object) -> Write:
        if not world.clumsiness:
            return write(kernel, family, text, **more)
        how = world.clumsiness.pop(0)
        if how == "refused":
            error = RestoreError("the table changed meanwhile", argv=("restore",), status=4, stderr="")
            error.transient = True
            raise error
        if how == "halfway":
            write(kernel, family, f"{text.split('COMMIT', maxsplit=1)[0]}COMMIT\n")
        elif how == "after":
            write(kernel, family, text)
        raise KvctlError("somebody pulled the plug")

    return clumsily
