"""What the rules look like: names of chains, tags and comments. Written here, and read back here.

    nat     POSTROUTING -> KVCTL-EGRESS [-> KVCTL-IN-<prefix> ...] -> KVCTL-SVC-<hash> [-> KVCTL-OUT-<hash>] -> SNAT
    mangle  POSTROUTING -> KVCTL-DROP [-> KVCTL-DIN-<prefix> ...] [-> KVCTL-DPASS-<hash> ...]
                        -> KVCTL-DROP-<hash> [-> KVCTL-DOUT-<hash>] -> DROP
                        -> KVCTL-GRD-<hash> -> DROP, of what is rewritten only while heartbeats come
    mangle  PREROUTING -> KVCTL-MARK [-> KVCTL-MIN-<prefix> ...] [-> KVCTL-DPASS-<hash> ...] -> KVCTL-MRK-<hash> -> MARK

The kernel is the only state, so a comment says all that the rule itself does not: who owns it, which
rank the Service has, why a network is excluded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from kvctl.model.net import Address, Family, Network, parse_address
from kvctl.model.policy import EgressPolicy, Exclusion, ExclusionKind, Fence, Rank, RankClass
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import (
    CHAIN_PREFIX,
    COMMENT_PREFIX,
    DROP_LEAF_PREFIX,
    DROP_OUT_PREFIX,
    DROP_PASS_PREFIX,
    DROP_SERVICE_PREFIX,
    GUARD_PREFIX,
    MARK_LEAF_PREFIX,
    MARK_PREFIX,
    Hook,
    Mark,
    Rule,
    Target,
    Verb,
)

LAYOUT = 1
"""Part of every tag: rules of another layout are replaced even where they look alike."""

_COMMENT = re.compile(re.escape(COMMENT_PREFIX) + r"[a-z2-7]{16} (?P<text>.+)")
_REF = r"(?P<namespace>[a-z0-9-]{1,63})/(?P<name>[a-z0-9-]{1,63})"
_POD = re.compile(
    r"(?P<rank_class>[123])(?P<created>[0-9]{1,12}) " + _REF + r" (?P<label>[a-z0-9.~-]{1,253})"
)
_OWN = _REF + r"(?: dev (?P<interface>[A-Za-z0-9_.@-]{1,15}))?"
_MARK = r"0x(?P<value>[0-9a-f]{1,8})/0x(?P<mask>[0-9a-f]{1,8})"
_SERVICE = re.compile(_OWN + r"(?: mark " + _MARK + r")?(?P<drops> else drop)?")
# What most nodes have none of is not compiled before it is met.
_FENCE = r"kvctl-[a-z2-7]{16}"
_DROPPED = (
    _OWN
    + r" without (?P<vip>[0-9a-f.:]{2,39})(?: fence (?P<fence>"
    + _FENCE
    + r") (?P<seconds>[1-9][0-9]{0,8}))?"
)
_ASIDE_POD = r"(?:guard|mark) " + _POD.pattern
_ASIDE = r"(?:guard|mark) " + _REF
_PASSED = r"before " + _REF
_RETIRING = r"retiring " + _REF + r" (?P<vip>[0-9a-f.:]{2,39})"
_EXCLUDE = re.compile(r"exclude (?P<kind>[a-z-]+)")


# RFC 4648, section 6, two digits at a time: base64.b32encode takes four times as long.
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def _find_sha256() -> Callable[[bytes], Any]:
    """What hashlib hands out where there is no OpenSSL, if it can be had alone, as random.py of the library takes it.

    Loading OpenSSL takes longer than all that is hashed by a command that looks.
    """
    for module in ("_sha2" if sys.version_info >= (3, 12) else "_sha256", "hashlib"):
        with suppress(ImportError, AttributeError):
            found: Callable[[bytes], Any] = import_module(module).sha256
            return found
    raise ImportError("this Python has no SHA-256")


_sha256 = _find_sha256()


def _digest(*parts: object) -> str:
    """80 bits of a hash in base32: 16 characters that a chain name and a bare comment may hold."""
    data = "\0".join((str(LAYOUT), *map(str, parts))).encode()
    bits = int.from_bytes(_sha256(data).digest()[:10])
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(70, -1, -10)])


@lru_cache(maxsize=65536)
def _of_service(prefix: str, role: str, ref: ServiceRef) -> str:
    return prefix + _digest(role, ref)


class Names(NamedTuple):
    """How the chains of one hook are called, from there to the Services."""

    hook: Hook
    leaf: str
    service: str
    out: str
    role: str = "service"

    @property
    def root(self) -> str:
        """The chain that our hook jumps to."""
        return self.hook.root

    def service_chain(self, ref: ServiceRef) -> str:
        """The chain of a Service; the same name in both families' tables. 27 characters at most."""
        return _of_service(self.service, self.role, ref)

    def out_chain(self, ref: ServiceRef) -> str:
        """The chain with the ports of a Service that has networks too."""
        return _of_service(self.out, self.role, ref)

    def leaf_chain(self, prefix: Network) -> str:
        """The chain for the pods of a prefix: in clear for IPv4 (28 characters at most), a hash for IPv6."""
        if prefix.version == 4:
            return f"{self.leaf}{prefix.network_address}-{prefix.prefixlen}"
        return self.leaf + _digest("prefix", prefix)

    def is_service(self, chain: str) -> bool:
        """Whether this is some Service's chain."""
        return chain.startswith(self.service)

    def is_dispatch(self, chain: str) -> bool:
        """Whether this chain leads from the hook to the Services."""
        return chain == self.root or chain.startswith(self.leaf)


REWRITING = Names(
    hook=Hook.EGRESS, leaf=CHAIN_PREFIX + "IN-", service=CHAIN_PREFIX + "SVC-", out=CHAIN_PREFIX + "OUT-"
)
DROPPING = Names(hook=Hook.DROP, leaf=DROP_LEAF_PREFIX, service=DROP_SERVICE_PREFIX, out=DROP_OUT_PREFIX)
COMING = DROPPING._replace(role="coming")
"""What is dropped by a Service's new rules, for the moment in which its old ones drop too."""

MARKING = Names(hook=Hook.MARK, leaf=MARK_LEAF_PREFIX, service=MARK_PREFIX, out=MARK_PREFIX)
"""Its Services' chains are named by `mark_chain`."""


def service_chain(ref: ServiceRef) -> str:
    """The chain that rewrites for a Service."""
    return REWRITING.service_chain(ref)


def out_chain(ref: ServiceRef) -> str:
    """The chain with the ports of a Service that has networks too."""
    return REWRITING.out_chain(ref)


def chains_of(ref: ServiceRef) -> tuple[str, ...]:
    """Every chain that is a Service's own."""
    return tuple(
        chain
        for names in (REWRITING, DROPPING, COMING)
        for chain in (names.service_chain(ref), names.out_chain(ref))
    )


def is_dispatch_chain(name: str) -> bool:
    """Whether this chain leads from one of our hooks to the Services."""
    return any(names.is_dispatch(name) for names in (REWRITING, DROPPING, MARKING))


def pass_chain(*content: object) -> str:
    """A chain that lets pass what Services of higher rank take; of equal content there is one. 28 characters."""
    return DROP_PASS_PREFIX + _digest("pass", *content)


def is_pass_chain(name: str) -> bool:
    """Whether this is a chain of `pass_chain`."""
    return name.startswith(DROP_PASS_PREFIX)


def guard_chain(*content: object) -> str:
    """A chain that drops while heartbeats are late; of equal content there is one. 26 characters."""
    return GUARD_PREFIX + _digest("guard", *content)


def mark_chain(*content: object) -> str:
    """A chain that marks; of equal content there is one. 26 characters."""
    return MARK_PREFIX + _digest("mark", *content)


def is_content_named(name: str) -> bool:
    """Whether this is a chain of `guard_chain`, `mark_chain` or `pass_chain`: what it holds never changes."""
    return name.startswith((GUARD_PREFIX, MARK_PREFIX, DROP_PASS_PREFIX))


def fence_name(family: Family, *, namespace: str, lease: str) -> str:
    """The list of xt_recent for what a Lease gives the right to. 22 characters, of 199 that xt_recent allows."""
    return f"kvctl-{_digest('fence', family, namespace, lease).lower()}"


def comment(text: str, *content: object) -> str:
    """`kvctl:<tag> text`; the tag covers the text and `content`."""
    return f"{COMMENT_PREFIX}{_digest(text, *content).lower()} {text}"


def pod_text(rank: Rank, label: str) -> str:
    """The comment of a pod's jump."""
    return f"{rank.rank_class:d}{rank.created:d} {rank.ref} {label}"


def service_text(policy: EgressPolicy) -> str:
    """The comment of the rules in a Service's chains."""
    drops = policy.fence is not None and policy.drops_without_vip
    mark = f" mark {policy.mark}" if policy.mark is not None else ""
    return _own_text(policy) + mark + (" else drop" if drops else "")


def drop_text(policy: EgressPolicy) -> str:
    """The comment of the rules in the chains that drop: no rule there names the VIP, or needs its fence."""
    fence = policy.fence
    return f"{_own_text(policy)} without {policy.vip}" + (
        f" fence {fence.name} {fence.seconds}" if fence is not None else ""
    )


def _own_text(policy: EgressPolicy) -> str:
    return f"{policy.ref} dev {policy.interface}" if policy.interface else str(policy.ref)


def coming_text(rank: Rank, label: str) -> str:
    """The comment of a pod's jump to what will be dropped: what is dropped till then names the pod already."""
    return f"coming {pod_text(rank, label)}"


def pass_text(ref: ServiceRef) -> str:
    """The comment of the rules that come before a dropped Service."""
    return f"before {ref}"


def guard_pod_text(rank: Rank, label: str) -> str:
    """The comment of a pod's jump to a chain that drops while heartbeats are late."""
    return f"guard {pod_text(rank, label)}"


def guard_text(ref: ServiceRef) -> str:
    """The comment of the rules in such a chain."""
    return f"guard {ref}"


def mark_pod_text(rank: Rank, label: str) -> str:
    """The comment of a pod's jump to a chain that marks."""
    return f"mark {pod_text(rank, label)}"


def mark_text(ref: ServiceRef) -> str:
    """The comment of the rules in such a chain."""
    return f"mark {ref}"


def retiring_rule(ref: ServiceRef, vip: Address) -> Rule:
    """Marks a VIP whose connections are still to be dropped; passes every packet on."""
    text = f"retiring {ref} {vip}"
    return Rule(comment=comment(text), target=Target(verb=Verb.RETURN))


def exclude_text(exclusion: Exclusion) -> str:
    """The comment of an excluded network's rules."""
    return f"exclude {exclusion.kind}"


def comment_text(rule: Rule) -> str | None:
    """What a comment of ours says after the tag."""
    return _text_after_tag(rule.comment)


@lru_cache(maxsize=65536)
def _text_after_tag(comment: str) -> str | None:
    match = _COMMENT.fullmatch(comment)
    return match["text"] if match else None


def read_pod(text: str) -> tuple[Rank, str] | None:
    """The rank and the pod's label in a pod's jump."""
    return _pod_of(_POD.fullmatch(text))


def read_aside_pod(text: str) -> tuple[Rank, str] | None:
    """The same in a pod's jump to what guards or marks the traffic of a Service that is rewritten."""
    return _pod_of(re.fullmatch(_ASIDE_POD, text))


def _pod_of(match: re.Match[str] | None) -> tuple[Rank, str] | None:
    if match is None:
        return None
    ref = ServiceRef(match["namespace"], match["name"])
    rank = Rank.of(rank_class=RankClass(int(match["rank_class"])), created=int(match["created"]), ref=ref)
    return rank, match["label"]


class Said(NamedTuple):
    """What the comment of a Service's rules says of its policy beside what they do."""

    ref: ServiceRef
    interface: str | None
    drops_without_vip: bool = False
    mark: Mark | None = None
    vip: Address | None = None
    """Where it drops: what it would rewrite to, and by which fence."""
    fence: Fence | None = None


@lru_cache(maxsize=65536)
def read_service(text: str) -> Said | None:
    """What is said in a rule of a Service's chains."""
    match = _SERVICE.fullmatch(text)
    if match is None:
        return None
    ref = ServiceRef(match["namespace"], match["name"])
    mark = Mark(int(match["value"], 16), int(match["mask"], 16)) if match["mask"] else None
    return Said(ref, match["interface"], drops_without_vip=match["drops"] is not None, mark=mark)


@lru_cache(maxsize=65536)
def read_dropped(text: str) -> Said | None:
    """What is said in a rule that drops."""
    match = re.fullmatch(_DROPPED, text)
    if match is None:
        return None
    try:
        vip = parse_address(match["vip"])
    except ValueError:
        return None
    fence = Fence(match["fence"], int(match["seconds"])) if match["fence"] else None
    return Said(
        ServiceRef(match["namespace"], match["name"]),
        match["interface"],
        drops_without_vip=fence is not None,
        vip=vip,
        fence=fence,
    )


def read_passed(text: str) -> ServiceRef | None:
    """The dropped Service that a rule comes before."""
    match = re.fullmatch(_PASSED, text)
    return ServiceRef(match["namespace"], match["name"]) if match else None


def read_aside(text: str) -> ServiceRef | None:
    """The Service whose traffic a rule marks, or drops while heartbeats are late."""
    match = re.fullmatch(_ASIDE, text)
    return ServiceRef(match["namespace"], match["name"]) if match else None


def read_retiring(rule: Rule) -> tuple[ServiceRef, Address] | None:
    """The Service and VIP of a retiring mark, None for any other rule."""
    if rule.target.verb is not Verb.RETURN:
        return None
    match = re.fullmatch(_RETIRING, comment_text(rule) or "")
    if match is None:
        return None
    try:
        return ServiceRef(match["namespace"], match["name"]), parse_address(match["vip"])
    except ValueError:
        return None


def read_exclusion(text: str) -> ExclusionKind | None:
    """Why a network is excluded."""
    match = _EXCLUDE.fullmatch(text)
    if match is None:
        return None
    try:
        return ExclusionKind(match["kind"])
    except ValueError:
        return None
