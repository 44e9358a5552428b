"""What the comments of the rules say: tags, owners, ranks. Written here, and read back here.

The kernel is the only state, so a comment says all that the rule itself does not: who owns it, which
rank the Service has, why a network is excluded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from kvctl.model.net import Address, Network, parse_address
from kvctl.model.policy import EgressPolicy, Exclusion, ExclusionKind, Fence, Rank, RankClass
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import COMMENT_PREFIX, Mark, Rule, Target, Verb
from kvctl.policy.layout import digest

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


def comment(text: str, *content: object) -> str:
    """`kvctl:<tag> text`; the tag covers the text and `content`."""
    return f"{COMMENT_PREFIX}{digest(text, *content).lower()} {text}"


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


def branch_text(prefix: Network) -> str:
    """The comment of a rule that leads packets of a prefix, or of one address, on to a chain for it."""
    return f"branch {prefix}"


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
