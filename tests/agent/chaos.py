"""What can happen to a node, as values: changes of the cluster, faults of the API, harm to the kernel's rules.

Who chooses is left open: hypothesis, or a random generator in a soak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.model.rules import HOOK_CHAIN
from kvctl.netfilter.kernel import Kernel, RestoreError
from tests.apiserver import ApiServer, Body, Cut, Drip, Drop, End, Fault, Hang, Object, Request, Status
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import Node, is_ours

_T = TypeVar("_T")


class Choose(Protocol):
    """Takes one of several: `random.Random(seed).choice`, or a draw of hypothesis."""

    def __call__(self, several: Sequence[_T], /) -> _T:
        """One of them."""


SERVICES = ("shop/alpha", "shop/beta", "shop/gamma", "bank/alpha")
PODS = ("shop/one", "shop/two", "shop/three", "bank/one", "bank/two")
# Fewer than pods: an address goes from one to another, be it of another tenant.
ADDRESSES = ("10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.2.1")
# The agent sees this node's pods alone: an address that two nodes' pods claim looks otherwise from afar.
_ELSEWHERE = "10.0.9.1"
VIPS = ("192.168.0.246", "192.168.0.247", "2001:db8:1::246", "2001:db8:1::247")
"""Addresses of eth1's networks that come and go."""
LABELS: tuple[Mapping[str, str], ...] = ({"app": "a"}, {"app": "b"}, {"app": "a", "tier": "edge"})
SELECTORS: tuple[Mapping[str, str] | None, ...] = (
    {"app": "a"},
    {"app": "a"},
    {"app": "b"},
    {"tier": "edge"},
    None,
)
KINDS = ("services", "pods", "endpointslices", "nodes")
WORKER = "worker"
_PORTS = "kube-vip.io/egress-destination-ports"
_ALLOWED = "kube-vip.io/egress-allowed-networks"
_DENIED = "kube-vip.io/egress-denied-networks"
_WITHOUT = "kvctl.io/without-vip"
FAULTLESS: tuple[Mapping[str, str], ...] = (
    {},
    {_PORTS: "udp:5060"},
    {_PORTS: "tcp:80,tcp:443,udp:1-9"},
    {_ALLOWED: "203.0.113.0/24,2001:db8:99::/64"},
    {_ALLOWED: "198.51.100.0/24", _PORTS: "udp:5060", _DENIED: "198.51.100.9/32"},
    {_WITHOUT: "drop"},
    {_WITHOUT: "drop", _PORTS: "udp:5060"},
    {_WITHOUT: "node-address"},
)
BROKEN: tuple[Mapping[str, str], ...] = ({_PORTS: "udp:0"}, {_ALLOWED: "everywhere"}, {_WITHOUT: "perhaps"})
_CREATED = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z")


@dataclass
class World:
    """A node, the API server it listens to, and what others have written into its kernel."""

    server: ApiServer
    node: Node
    vips: set[str] = field(default_factory=set)
    """Those of VIPS that are on eth1 now."""
    theirs: dict[Family, list[str]] = field(default_factory=dict)
    """Other programs' rules, as they were left by who may change them."""
    events: int = 0
    faults: int = 0
    harms: int = 0
    clumsiness: list[str] = field(default_factory=list)
    """How the next writes of the agent in this process fail: see `clumsy`."""

    def begin(self) -> None:
        """A kernel with others' rules and no VIP, and a cluster of this node alone."""
        for family in Family:
            text = "".join(f"*{table}\n{content}COMMIT\n" for table, content in _foreign(family).items())
            argv = ["iptables" if family is Family.IPV4 else "ip6tables", self.node.backend, "restore"]
            self.node.run("-".join(map(str, argv)), stdin=text)
        for vip in VIPS:
            self.move(vip, here=False)
        self.noted()
        self.server.put("nodes", node(WORKER, "172.16.0.2"))

    def move(self, vip: str, *, here: bool) -> None:
        """Put a VIP on eth1, or take it off."""
        if here is (vip in self.vips):
            return
        length, more = (128, " nodad preferred_lft 0") if ":" in vip else (32, "")
        word = "add" if here else "del"
        self.node.namespace.batch([f"addr {word} {vip}/{length} dev eth1{more if here else ''}"])
        self.vips ^= {vip}

    def noted(self) -> None:
        """What others have in the kernel now is what has to stay there."""
        self.theirs = self.foreign()

    def foreign(self) -> dict[Family, list[str]]:
        """Their chains and rules, without counters and in the order of the chains' names."""
        return {family: foreign_lines(self.node.save(family=family)) for family in Family}

    def ours(self, family: Family) -> list[tuple[str, str, str]]:
        """(table, chain, rule) of every rule of kvctl's."""
        found, table = [], ""
        for line in self.node.save(family=family).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A ") and is_ours(line):
                found.append((table, line.split()[1], line.split(" ", 2)[2]))
        return found

    def mend(self) -> None:
        """No fault is to come any more, and no Service says what cannot be read."""
        self.server.mend()
        for value in self.server.objects("services"):
            written = value["metadata"]["annotations"]
            if any(broken.items() <= written.items() for broken in BROKEN):
                value["metadata"]["annotations"] = {"kube-vip.io/egress": "true"}
                self.server.put("services", value)


class Step(Protocol):
    """Something that happens."""

    def do(self, world: World) -> None:
        """Let it."""


# The cluster. -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PutService:
    """A Service comes, or becomes another."""

    name: str
    vips: tuple[str, ...]
    selector: Mapping[str, str] | None
    annotations: Mapping[str, str]
    asks: bool
    policy: str
    created: str

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        namespace, _, name = self.name.partition("/")
        asked = {"kube-vip.io/egress": "true"} if self.asks else {}
        written = {**asked, **self.annotations}
        meta = {
            "namespace": namespace,
            "name": name,
            "annotations": written,
            "creationTimestamp": self.created,
        }
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": self.policy, "selector": self.selector}
        status = {"loadBalancer": {"ingress": [{"ip": vip} for vip in self.vips]}}
        world.server.put("services", {"metadata": meta, "spec": spec, "status": status})


@dataclass(frozen=True)
class PutPod:
    """A Pod comes, or becomes another: its address, labels, node, phase."""

    name: str
    address: str
    labels: Mapping[str, str]
    state: str

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        namespace, _, name = self.name.partition("/")
        last = self.address.rpartition("10.0.")[2].replace(".", ":")
        spec = {"nodeName": "elsewhere" if self.state == "elsewhere" else WORKER}
        meta: Object = {"namespace": namespace, "name": name, "labels": dict(self.labels)}
        if self.state == "deleting":
            meta["deletionTimestamp"] = "2026-02-01T00:00:00Z"
        phase = "Succeeded" if self.state == "finished" else "Running"
        several = [self.address, f"fd00:10::{last}"] if self.state != "bare" else []
        status = {"phase": phase, "podIPs": [{"ip": address} for address in several]}
        world.server.put("pods", {"metadata": meta, "spec": spec, "status": status})


@dataclass(frozen=True)
class PutSlice:
    """The endpoints of a Service without a selector are these."""

    service: str
    addresses: tuple[str, ...]

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        namespace, _, name = self.service.partition("/")
        meta = {
            "namespace": namespace,
            "name": name,
            "labels": {"kubernetes.io/service-name": name},
        }
        endpoints = [{"addresses": [address], "nodeName": WORKER} for address in self.addresses]
        value = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints}
        world.server.put("endpointslices", value)


@dataclass(frozen=True)
class PutNode:
    """A node has this address: pods' traffic to nodes is left alone."""

    name: str
    address: str

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        world.server.put("nodes", node(self.name, self.address))


@dataclass(frozen=True)
class Delete:
    """An object goes; `again`: and another of its name comes at once."""

    kind: str
    which: int
    again: bool

    def do(self, world: World) -> None:
        """As Step."""
        several = [o for o in world.server.objects(self.kind) if not _is_permanent(o)]
        if not several:
            return
        world.events += 1
        value = several[self.which % len(several)]
        meta = value["metadata"]
        world.server.delete(self.kind, meta["name"], namespace=meta.get("namespace", ""))
        if self.again:
            del meta["uid"]
            world.server.put(self.kind, value)


@dataclass(frozen=True)
class MoveVip:
    """An address comes to eth1, or leaves it."""

    vip: str
    here: bool

    def do(self, world: World) -> None:
        """As Step."""
        world.events += 1
        world.move(self.vip, here=self.here)


@dataclass(frozen=True)
class Wait:
    """Nothing happens for a while; so that the next comes in the middle of something."""

    seconds: float

    def do(self, world: World) -> None:
        """As Step."""
        time.sleep(self.seconds)


def node(name: str, address: str) -> Object:
    """A Node as the API has it."""
    addresses = [{"type": "InternalIP", "address": address}]
    return {"metadata": {"name": name}, "spec": {}, "status": {"addresses": addresses}}


def _is_permanent(value: Object) -> bool:
    """Whether a soak's packets depend on it, or all rules do (this node)."""
    return value["metadata"]["name"] in (WORKER, "steady", "steady-0")


def change(choose: Choose) -> Step:
    """Some change of the cluster or of this node's addresses."""
    kind = choose(
        ("service", "service", "pod", "pod", "pod", "slice", "node", "delete", "vip", "vip", "vip", "wait")
    )
    match kind:
        case "service":
            return _service(choose)
        case "pod":
            states = ("running",) * 6 + ("elsewhere", "finished", "deleting", "bare")
            state = choose(states)
            return PutPod(
                choose(PODS), choose(ADDRESSES) if state != "elsewhere" else _ELSEWHERE, choose(LABELS), state
            )
        case "slice":
            return PutSlice(choose(SERVICES), choose(((), ADDRESSES[:1], ADDRESSES[:2], ADDRESSES[2:])))
        case "node":
            return PutNode(
                choose((WORKER, "elsewhere")), choose(("172.16.0.2", "172.16.0.3", "203.0.113.77"))
            )
        case "delete":
            return Delete(choose(KINDS[:3]), choose(range(4)), choose((False, True)))
        case "vip":
            return MoveVip(choose(VIPS), choose((False, True)))
    return Wait(choose((0.0, 0.01, 0.03, 0.1)))


def beginning(choose: Choose) -> list[Step]:
    """A node with work to do: all Services and Pods, and most VIPs here."""
    here: list[Step] = [MoveVip(vip, here=choose((True, True, True, False))) for vip in VIPS]
    places = zip(PODS, (*ADDRESSES, ADDRESSES[0]), strict=True)
    pods: list[Step] = [PutPod(name, address, choose(LABELS), "running") for name, address in places]
    return [*here, *pods, *(_service(choose, name) for name in SERVICES)]


def _service(choose: Choose, name: str | None = None) -> Step:
    one, other = choose(VIPS[:2]), choose(VIPS[2:])
    return PutService(
        name=choose(SERVICES) if name is None else name,
        vips=choose(((one, other), (one,), (other,), (one, other))),
        selector=choose(SELECTORS),
        annotations=choose((*FAULTLESS, *FAULTLESS, *BROKEN)),
        asks=choose((True, True, True, True, False)),
        policy=choose(("Local", "Local", "Local", "Cluster")),
        created=choose(_CREATED),
    )


# The API. ---------------------------------------------------------------------------------------------

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


def clumsy(
    world: World, write: Callable[[Kernel, Family, str], None]
) -> Callable[[Kernel, Family, str], None]:
    """`Kernel.write` that fails as `world.clumsiness` says, once for each word of it."""

    def clumsily(kernel: Kernel, family: Family, text: str) -> None:
        if not world.clumsiness:
            write(kernel, family, text)
            return
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


# Others' rules. ---------------------------------------------------------------------------------------


def _foreign(family: Family) -> dict[str, str]:
    """kube-proxy's and a VPN's, table by table; every table that iptables-restore has to empty is named."""
    tables: dict[str, str] = {"nat": "", "mangle": ""}
    for program in ("kube-proxy", "ufw"):
        for part in rules_of(program, family).split("COMMIT\n"):
            table, _, content = part.removeprefix("*").partition("\n")
            if table:
                tables[table] = tables.get(table, "") + content
    return {table: _chains_first(content) for table, content in tables.items()}


def _chains_first(content: str) -> str:
    lines = sorted(content.splitlines(), key=lambda line: not line.startswith(":"))
    return "".join(f"{line}\n" for line in lines)


def foreign_lines(saved: str) -> list[str]:
    """Chains that iptables does not have by itself, and rules, that are not kvctl's; stable by chain and table."""
    found: list[tuple[str, str, str]] = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif (line.startswith("-A ") or line.endswith(" -")) and not is_ours(line):
            chain = line.split()[1] if line.startswith("-A ") else line[1:].split()[0]
            found.append((table, chain, line))
    return [f"{table} {line}" for table, _, line in sorted(found, key=lambda each: each[:2])]


def our_chains(saved: str) -> dict[tuple[str, str], list[str]]:
    """kvctl's chains and its jumps, by table and chain; which chain was made first does not matter."""
    found: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif is_ours(line):
            chain = line[1:].split()[0] if line.startswith(":") else line.split()[1]
            rules = found.setdefault((table, chain), [])
            rules += [] if line.startswith(":") else [line]
    return found


def kept_statuses(items: Sequence[Any]) -> dict[tuple[str, str], str]:
    """`(Service, family)` -> status, of items."""
    return {(str(item.ref), str(item.family)): str(item.status) for item in items}
