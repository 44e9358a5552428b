"""How an annotation is read: strictly, every problem of a Service at once.

A tenant writes annotations, so each value is bounded before it is split, and only ASCII digits,
the three protocols and plain CIDR notation are understood. What is not understood is a `Problem`,
never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from kvctl.model.net import Address, Family, Network, family_of
from kvctl.model.policy import PortMatch, WithoutVip
from kvctl.model.text import quote
from kvctl.policy.values import (
    UnacceptableError,
    merge_ports,
    read_address,
    read_gateway,
    read_network,
    read_port,
    without_covered,
)

EGRESS = "kube-vip.io/egress"
KVCTL_EGRESS = "kvctl.io/egress"
PORTS = "kube-vip.io/egress-destination-ports"
ALLOWED = "kube-vip.io/egress-allowed-networks"
DENIED = "kube-vip.io/egress-denied-networks"
IPV6 = "kube-vip.io/egress-ipv6"
ADDRESSES = "kube-vip.io/loadbalancerIPs"
INTERFACE = "kube-vip.io/serviceInterface"
IGNORE = "kube-vip.io/ignore"
WITHOUT_VIP = "kvctl.io/without-vip"
LEASE = "kube-vip.io/leaseName"
GATEWAY = "kvctl.io/gateway"

WITHOUT_EFFECT: Mapping[str, str] = {
    "kube-vip.io/egress-source-ports": "source ports are never matched",
    "kube-vip.io/egress-internal": "kvctl always writes its own rules in the nat table",
    "kube-vip.io/egress-no-internal-traffic": "cluster traffic is never rewritten anyway",
    "kube-vip.io/egress-detect-api-server": "the API server is reached as cluster traffic or through "
    "kube-vip.io/egress-denied-networks",
    "kube-vip.io/egress-nftables-table": "kvctl writes chains of its own with iptables",
    "kube-vip.io/flush-conntrack": "kvctl drops exactly the connections that have the wrong source",
}
"""kube-vip's other egress annotations and why they do nothing here."""

_KNOWN = frozenset((EGRESS, KVCTL_EGRESS, PORTS, ALLOWED, DENIED, IPV6, WITHOUT_VIP, GATEWAY))
_OWN_PREFIXES = (EGRESS, "kvctl.io/")
_NARROWING = (PORTS, ALLOWED, DENIED, WITHOUT_VIP)
"""Without these more is rewritten, or let out, than a Service means that has misspelt one."""
_LONGEST_SWITCH = len(EGRESS) + 2
"""Of a name that may be a misspelt switch."""

MAX_PORTS = 64
MAX_NETWORKS = 256
MAX_ADDRESSES = 16
MAX_UNKNOWN = 8
"""Unknown annotations that are named one by one."""
# 256 IPv6 networks of 43 characters with blanks: anything longer is no list that could be accepted.
_LONGEST_VALUE = 16_384

# What the kernel (dev_valid_name) and an annotation both allow, ASCII only.
_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}")

_LEASE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

T = TypeVar("T")


class Problem(NamedTuple):
    """An annotation (or field) whose value is not accepted."""

    annotation: str
    value: str
    why: str
    """What is wrong and what is accepted, as the rest of a sentence about the value."""
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.annotation} {quote(self.value)} {self.why}"


class Annotations(NamedTuple):
    """The annotations of one Service, parsed. A field whose annotation is faulty has its empty value."""

    egress: bool | None
    """None: not asked, or faulty (then there is a problem of that annotation)."""
    ignore: bool
    ports: tuple[PortMatch, ...]
    allowed: tuple[Network, ...] | None
    """None: no restriction. Empty: every entry was faulty."""
    denied: tuple[Network, ...]
    addresses: tuple[Address, ...]
    interface: str | None
    without_vip: WithoutVip | None
    """None: not said, or faulty."""
    lease: str | None
    """The Lease to share; None: not said, or faulty."""
    gateways: tuple[Address, ...]
    """The next hops on the interface, at most one a family."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def faulty(self, *names: str) -> bool:
        """Whether one of these annotations has a problem."""
        return any(problem.annotation in names for problem in self.problems)

    @property
    def asks(self) -> bool:
        """Whether egress is asked for, as far as can be told: a faulty switch may mean it."""
        return self.faulty(EGRESS, KVCTL_EGRESS) if self.egress is None else self.egress


class _Reader:
    """Collects the problems of one Service while its annotations are read."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._annotations = annotations
        self.problems: list[Problem] = []

    def fault(self, name: str, value: str, why: str, hint: str | None = None) -> None:
        self.problems.append(Problem(annotation=name, value=value, why=why, hint=hint))

    def switch(self, name: str) -> bool | None:
        value = self._annotations.get(name)
        if value is None:
            return None
        if value not in ("true", "false"):
            meant = value.strip().lower()
            hint = f'write "{meant}"' if meant in ("true", "false") else None
            self.fault(name, value, 'is neither "true" nor "false"', hint)
            return None
        return value == "true"

    def without_vip(self) -> WithoutVip | None:
        value = self._annotations.get(WITHOUT_VIP)
        if value is None:
            return None
        try:
            return WithoutVip(value)
        except ValueError:
            meant = value.strip().lower().replace("_", "-")
            hint = f'write "{meant}"' if meant in list(WithoutVip) else None
            accepted = " nor ".join(f'"{each}"' for each in WithoutVip)
            self.fault(WITHOUT_VIP, value, f"is neither {accepted}", hint)
            return None

    def lease(self) -> str | None:
        value = self._annotations.get(LEASE)
        if not value:
            return None
        if not _LEASE_NAME.fullmatch(value):
            self.fault(
                LEASE, value, "is not the name of a Lease (an RFC 1123 subdomain, without a namespace)"
            )
            return None
        return value

    def gateways(self) -> tuple[Address, ...]:
        found = self.each(GATEWAY, read_gateway, most=2, what="addresses, one a family,")
        if len({address.version for address in found}) == len(found):
            return found
        self.fault(
            GATEWAY, self._annotations[GATEWAY], "has two addresses of one family: one a family is accepted"
        )
        return ()

    def items(self, name: str, *, most: int, what: str) -> tuple[str, ...]:
        """The comma-separated entries of an annotation, without white space and duplicates, bounded."""
        value = self._annotations.get(name)
        if value is None or value == "":
            return ()
        if len(value) > _LONGEST_VALUE:
            self.fault(name, value, f"has {len(value)} characters: at most {_LONGEST_VALUE} are accepted")
            return ()
        entries = tuple(dict.fromkeys(entry.strip(" \t") for entry in value.split(",")))
        if len(entries) > most:
            self.fault(name, value, f"has {len(entries)} entries: at most {most} {what} are accepted")
            return ()
        return entries

    def each(self, name: str, parse: Callable[[str], T], *, most: int, what: str) -> tuple[T, ...]:
        """Every entry parsed; each entry that cannot be is a problem of its own."""
        good: list[T] = []
        for entry in self.items(name, most=most, what=what):
            try:
                good.append(parse(entry))
            except UnacceptableError as error:
                self.fault(name, entry, error.why, error.hint)
        return tuple(good)

    def interface(self) -> str | None:
        value = self._annotations.get(INTERFACE)
        if value is None or value == "":
            return None
        if not _INTERFACE.fullmatch(value) or value in (".", ".."):
            self.fault(
                INTERFACE, value, "is not the name of a network interface (1 to 15 of A-Z a-z 0-9 _ . @ -)"
            )
            return None
        return value


def read_annotations(annotations: Mapping[str, str]) -> Annotations:
    """Everything kvctl wants to know from a Service's annotations."""
    reader = _Reader(annotations)
    unknown = _unknown(annotations)
    meant = {name: _meant(name) for name in unknown[:MAX_UNKNOWN]}
    missed = {
        name: known for name, known in meant.items() if known in _NARROWING and known not in annotations
    }
    for name, known in missed.items():
        reader.fault(known, annotations[name], f"is misspelt: {quote(name)} is not read", f"write {known}")
    own, shared = reader.switch(KVCTL_EGRESS), reader.switch(EGRESS)
    if any(problem.annotation == KVCTL_EGRESS for problem in reader.problems):
        shared = None
    allowed = reader.each(ALLOWED, read_network, most=MAX_NETWORKS, what="networks")
    reader.switch(IPV6)
    return Annotations(
        egress=own if own is not None else shared,
        ignore=bool(reader.switch(IGNORE)),
        ports=merge_ports(reader.each(PORTS, read_port, most=MAX_PORTS, what="ports")),
        allowed=without_covered(allowed) if annotations.get(ALLOWED) else None,
        denied=without_covered(reader.each(DENIED, read_network, most=MAX_NETWORKS, what="networks")),
        addresses=reader.each(ADDRESSES, read_address, most=MAX_ADDRESSES, what="addresses"),
        interface=reader.interface(),
        without_vip=reader.without_vip(),
        lease=reader.lease(),
        gateways=reader.gateways(),
        problems=tuple(reader.problems),
        warnings=(*_without_effect(annotations), *_ignored(unknown, meant, told=missed)),
    )


def _without_effect(annotations: Mapping[str, str]) -> list[str]:
    return [
        f"{name} has no effect here: {why}" for name, why in WITHOUT_EFFECT.items() if name in annotations
    ]


def _unknown(annotations: Mapping[str, str]) -> list[str]:
    """Names that look like ours and are not: a typing error would do nothing at all, in silence."""
    return [
        name
        for name in annotations
        if name.startswith(_OWN_PREFIXES) and name not in _KNOWN and name not in WITHOUT_EFFECT
    ]


def _ignored(
    unknown: Sequence[str], meant: Mapping[str, str | None], *, told: Container[str]
) -> Iterable[str]:
    """A warning for each unknown name, but for those that are `told` as problems."""
    for name, known in meant.items():
        if name not in told:
            yield _no_effect(name, known)
    if len(unknown) > len(meant):
        yield f"{len(unknown) - len(meant)} more annotations have no effect here"


def _no_effect(name: str, known: str | None) -> str:
    question = f": did you mean {known}?" if known is not None else ""
    return f"the annotation {quote(name)} has no effect here{question}"


def _meant(name: str) -> str | None:
    """A known name that is close to this one; None: none is."""
    from difflib import get_close_matches

    close = get_close_matches(name[:80], (*sorted(_KNOWN), *WITHOUT_EFFECT), n=1, cutoff=0.9)
    return close[0] if close else None


def misspelt_switch(annotations: Mapping[str, str]) -> str | None:
    """The sentence about a name that is nearly that of the switch, where the switch itself is not there: nobody else
    says why such a Service asks for nothing. None: there is none.
    """
    if EGRESS in annotations or KVCTL_EGRESS in annotations:
        return None
    for name in annotations:
        # By far most annotations are of others, and finding what is close takes its time.
        if "/e" not in name.lower() or len(name) > _LONGEST_SWITCH:
            continue
        known = _meant(name)
        if known in (EGRESS, KVCTL_EGRESS) and name != known:
            return _no_effect(name, known)
    return None


def of_family(networks: Iterable[Network], family: Family) -> tuple[Network, ...]:
    """Those of one family, in their order."""
    return tuple(network for network in networks if family_of(network) is family)
