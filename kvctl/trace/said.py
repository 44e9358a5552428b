"""What the rules of a packet's way say by their comments: whose they are, and why a pod's packet was not rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvctl.model.ref import ServiceRef
from kvctl.model.rules import CHAIN_PREFIX, DROP_CHAIN, EGRESS_CHAIN, Rule, Verb
from kvctl.netfilter.foreign import COMMENT as KUBE_VIP_COMMENT
from kvctl.netfilter.syntax import parse
from kvctl.policy.comments import (
    comment_text,
    read_aside,
    read_aside_pod,
    read_dropped,
    read_exclusion,
    read_passed,
    read_pod,
    read_retiring,
    read_service,
)
from kvctl.trace.walk import Step

_COMING = "coming "
_SEE_LIST = "kvctl egress list --cluster (or -f FILE) says why"
_COMMENT = re.compile(r' ?-m comment --comment (?:"(?:[^"\\]|\\.)*"|[^ ]+)', re.DOTALL)


def spelled(step: Step, *, whole: bool = True) -> str:
    """The rule of a step as iptables-save prints it; not `whole`: without its comment."""
    if step.rule is None:
        return f"-P {step.chain} DROP"
    text = step.rule.text if whole else _COMMENT.sub("", step.rule.text).strip()
    return f"-A {step.chain} {text}"


def own_rule(step: Step) -> Rule | None:
    """The rule of a step if it is one of kvctl's, in a chain of kvctl's."""
    if step.rule is None or not step.chain.startswith(CHAIN_PREFIX):
        return None
    return parse(step.rule.text)


def service_of(step: Step) -> ServiceRef | None:
    """The Service that a rule of kvctl's belongs to."""
    rule = own_rule(step)
    text = comment_text(rule) if rule is not None else None
    if rule is None or text is None:
        return None
    text = text.removeprefix(_COMING)
    pod = read_pod(text) or read_aside_pod(text)
    said = read_service(text) or read_dropped(text)
    retiring = read_retiring(rule)
    if pod is not None:
        return pod[0].ref
    if retiring is not None:
        return retiring[0]
    return said.ref if said is not None else read_aside(text) or read_passed(text)


def owner_of(step: Step) -> str:
    """Whose rule it is, in words: `kvctl's`, `kube-vip's`, or another's."""
    if own_rule(step) is not None or _is_hook(step):
        return "kvctl's"
    comment = step.rule.comment if step.rule is not None else ""
    match = KUBE_VIP_COMMENT.fullmatch(comment)
    if match is not None:
        return f"kube-vip's for namespace {match['namespace']}"
    if step.chain.startswith("KUBE-"):
        return "kube-proxy's"
    if step.chain.startswith("cali-"):
        return "Calico's"
    return "another program's"


def _is_hook(step: Step) -> bool:
    rule = parse(step.rule.text) if step.rule is not None else None
    return rule is not None and (rule.target.chain or "").startswith(CHAIN_PREFIX)


class Spared(NamedTuple):
    """Why kvctl's rules did not rewrite a packet, and the Service it concerns."""

    reason: str
    service: ServiceRef | None = None
    step: Step | None = None
    """The rule that decided it."""


def why_spared(steps: Sequence[Step], *, has_rules: bool, drops: bool, source: object) -> Spared:
    """Why kvctl's rewriting left a new connection alone; `steps` are those of its way.

    `has_rules`: rules that rewrite are there; `drops`: rules that drop.
    """
    asked = [
        step for step in steps if (step.place.hook, step.place.table) == ("POSTROUTING", "nat") and step.taken
    ]
    if not has_rules:
        nothing = f"kvctl has no rules in the kernel: {_SEE_LIST}"
        return Spared(_why_not_dropped(steps) if drops else nothing)
    entered = any(
        step.chain == "POSTROUTING"
        and step.rule is not None
        and step.rule.target is not None
        and step.rule.target.name == EGRESS_CHAIN
        for step in asked
    )
    if not entered:
        before = next((step for step in asked if step.chain == "POSTROUTING"), None)
        if before is None:
            return Spared("kvctl's rules are there, but no jump leads to them: see kvctl egress diff")
        return Spared("another program's rule ends the walk before kvctl's rules are asked", step=before)
    found: Spared | None = None
    for step in asked:
        rule = own_rule(step)
        text = comment_text(rule) if rule is not None else None
        if rule is None or text is None:
            continue
        kind = read_exclusion(text)
        if kind is not None and rule.target.verb is Verb.RETURN:
            network = rule.destination or rule.original_destination
            aimed = "it goes to" if rule.destination else "it was aimed at"
            return Spared(f"{aimed} {network}, which is never rewritten to ({kind})", step=step)
        service = service_of(step)
        if read_retiring(rule) is not None:
            found = Spared(f"the rules of {service} are being removed", service, step)
        elif read_pod(text) is not None:
            found = Spared(f"{service} does not rewrite what is sent there", service, step)
        elif rule.target.verb is Verb.RETURN and rule.destination is not None:
            found = Spared(f"{service} denies {rule.destination}", service, step)
    return found or Spared(f"no Service's rules name the pod {source}: {_SEE_LIST}")


def _why_not_dropped(steps: Sequence[Step]) -> str:
    """Why rules that drop, which are the only ones of ours, left a packet alone."""
    place = ("POSTROUTING", "mangle")
    asked = [step for step in steps if (step.place.hook, step.place.table) == place and step.taken]
    targets = [step.rule.target.name if step.rule and step.rule.target else "" for step in asked]
    if DROP_CHAIN in targets:
        return f"kvctl has only rules that drop, and none of them takes it: {_SEE_LIST}"
    if not targets or targets[-1] not in ("ACCEPT", "RETURN"):
        return "kvctl's rules are there, but no jump leads to them: see kvctl egress diff"
    rule = f"mangle {spelled(asked[-1], whole=False)} ({owner_of(asked[-1])})"
    return f"{rule} ends the walk before kvctl's rules, which drop, are asked"


def what_is_rewritten(rules: Iterable[Rule]) -> str:
    """What the rules of a Service's chains rewrite, in words."""
    ports: list[str] = []
    allowed: list[str] = []
    for rule in rules:
        if rule.target.verb not in (Verb.SNAT, Verb.JUMP):
            continue
        ports += [f"{rule.protocol}:{a}" if a == b else f"{rule.protocol}:{a}-{b}" for a, b in rule.ports]
        allowed += [str(rule.destination)] if rule.destination is not None else []
    to = f" to {', '.join(dict.fromkeys(allowed))}" if allowed else ""
    return f"only {', '.join(dict.fromkeys(ports)) or 'what goes'}{to}" if ports or allowed else "nothing"
