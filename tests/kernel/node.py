"""The worker of a lab as kvctl's node: runs in process inside its namespace, judged by packets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from kvctl.lab.build import Lab
from kvctl.lab.topology import STANDARD, Addresses
from kvctl.lab.traffic import Seen, probe
from kvctl.model.net import Family
from kvctl.model.objects import CidrHint, Endpoint, Node, Objects, Pod, Service
from kvctl.model.settings import Settings
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.resolve import resolve
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.look import look
from kvctl.reconcile.report import Item
from kvctl.reconcile.run import Applied, apply, flush
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import objects, pod, ref, settings

Thing = Service | Pod | Endpoint | Node | CidrHint

POD_CIDRS = ("10.0.0.0/16", "fd00:10::/64")
LAB_SETTINGS = settings(pod_cidrs=POD_CIDRS, service_cidrs=("10.96.0.0/12", "fd00:96::/112"), node="worker")

VIPS = tuple(each.vip for each in STANDARD.values())
"""The VIP of the lab, in both families."""
SECOND_VIPS = ("192.168.0.246", "2001:db8:1::246")
"""Free addresses of the VIP's network, for `Worker.bind`."""

_COUNTERS = re.compile(r"\[[0-9]+:[0-9]+\]")


@dataclass(frozen=True)
class Worker:
    """One worker of a lab, with what kvctl is told there."""

    lab: Lab
    name: str = "worker"
    settings: Settings = LAB_SETTINGS
    told: bool | None = None
    """As --nftables; None: kvctl finds the lab's back end by itself."""

    def told_to(self, **changes: object) -> Worker:
        """The same worker with other settings."""
        return replace(self, settings=self.settings._replace(**changes))  # type: ignore[arg-type]

    def bind(self, *addresses: str) -> None:
        """Put further VIPs on eth1."""
        lines = (
            f"{a}/128 dev eth1 nodad preferred_lft 0" if ":" in a else f"{a}/32 dev eth1" for a in addresses
        )
        self.lab[self.name].batch([f"addr add {line}" for line in lines])

    def apply(
        self,
        *things: Thing,
        named: Iterable[str] | None = None,
        prune: bool = False,
        keep_connections: bool = False,
        source: Objects | None = None,
    ) -> Applied:
        """`kvctl egress apply`, with `things` as its source."""
        with self.lab[self.name].entered():
            wish = self._wish(source if source is not None else objects(*things), named, prune)
            with namespace_lock(timeout=10):
                return apply(look(told=self.told), wish, drop_connections=not keep_connections)

    def compare(
        self,
        *things: Thing,
        named: Iterable[str] | None = None,
        prune: bool = False,
        source: Objects | None = None,
    ) -> Compared:
        """`kvctl egress diff`."""
        with self.lab[self.name].entered():
            wish = self._wish(source if source is not None else objects(*things), named, prune)
            return compare(look(told=self.told), wish, scope=wish.scope)

    def listed(self) -> list[Item]:
        """`kvctl egress list`, from the kernel alone."""
        with self.lab[self.name].entered():
            return compare(look(told=self.told), None, scope=Scope()).items

    def flush(self, *names: str, keep_connections: bool = False) -> Applied:
        """`kvctl egress flush`; without names everything."""
        with self.lab[self.name].entered(), namespace_lock(timeout=10):
            refs = frozenset(map(ref, names)) if names else None
            found = look(told=self.told)
            return flush(found, refs, host=read_host(), drop_connections=not keep_connections)

    def iptables(self, family: Family, *words: str) -> None:
        """One iptables of the lab's back end, as another program on the node would run it."""
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        done = self.lab[self.name].run([f"{program}-{self.lab.topology.backend}", "-w", "5", *words])
        assert done.status == 0, done.stderr

    def saved(self, family: Family, *, backend: str | None = None, counters: bool = False) -> list[str]:
        """The nat table as text, chain by chain in the order of their names, rules in their own order."""
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        argv = [f"{program}-{backend or self.lab.topology.backend}-save", *(["-c"] if counters else [])]
        text = self.lab[self.name].run(argv).stdout
        table = text.partition("*nat\n")[2].partition("COMMIT")[0]
        lines = [line if counters else _COUNTERS.sub("", line) for line in table.splitlines()]
        return sorted(lines, key=_chain_of)  # stable: the order within a chain stays

    def family_of_backend(self) -> Family:
        """One family a back end, for what goes by the same code in all four."""
        return Family.IPV4 if self.lab.topology.backend == "nft" else Family.IPV6

    def tables(self, family: Family) -> dict[str, list[str]]:
        """The rules of every table that has any or a chain of its own, by name; without counters."""
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        text = self.lab[self.name].run([f"{program}-{self.lab.topology.backend}-save"]).stdout
        found: dict[str, list[str]] = {}
        for part in text.split("\n*")[1:]:
            name, _, rest = part.partition("\n")
            lines = [line for line in rest.split("\n") if line.startswith("-A ") or " - " in line]
            if lines:
                found[name] = [_COUNTERS.sub("", line) for line in lines if not line.startswith("#")]
        return found

    def saved_tables(self) -> dict[Family, dict[str, list[str]]]:
        """`tables` of both families."""
        return {family: self.tables(family) for family in Family}

    def _wish(self, source: Objects, named: Iterable[str] | None, prune: bool) -> Wish:
        host = read_host()
        return Wish(
            resolution=resolve(source, self.settings, host=host),
            scope=Scope(named=frozenset(map(ref, named)) if named is not None else None, prune=prune),
            settings=self.settings,
            host=host,
        )


def _chain_of(line: str) -> str:
    match = re.search(r"(?:-A |^:)(\S+)", line)
    return match[1] if match else ""


@dataclass(frozen=True)
class Packets:
    """What the other end sees of a pod, in one family."""

    lab: Lab
    family: Family

    @property
    def who(self) -> Addresses:
        """The addresses of the standard lab."""
        return STANDARD[self.family]

    def ask(
        self,
        port: int = 5060,
        *,
        protocol: str = "udp",
        to: str | None = None,
        pod: str = "pod",
        source: str | None = None,
    ) -> Seen | None:
        """What the other end saw of a new connection; None: no reply came back."""
        return probe(
            self.lab[pod],
            destination=to if to is not None else self.who.outside_eth1,
            port=port,
            protocol=protocol,
            source=source,
        )

    def seen(
        self,
        port: int = 5060,
        *,
        protocol: str = "udp",
        to: str | None = None,
        pod: str = "pod",
        source: str | None = None,
    ) -> str | None:
        """The source address that the other end saw."""
        answer = self.ask(port, protocol=protocol, to=to, pod=pod, source=source)
        return answer.source if answer is not None else None


def statuses(items: Collection[Item], family: Family) -> dict[str, str]:
    """`namespace/name` -> status, in one family (and where the family is not known)."""
    return {str(item.ref): str(item.status) for item in items if item.family in (None, family)}


def lab_pod(name: str = "sip/sip-client-0", *, app: str | None = None, namespace: str = "pod") -> Pod:
    """The object of the lab's `pod` (or `peer`), with its addresses of both families."""
    addresses = (each.pod if namespace == "pod" else each.peer for each in STANDARD.values())
    return pod(name, *addresses, app=app)


def show_server_the_way(lab: Lab) -> None:
    """Let the lab's `server` answer what does not come from its own segment, as a cluster's router would."""
    lab["server"].batch(["route add default via 172.16.0.2", "route add default via 2001:db8::2"])
