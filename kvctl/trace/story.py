"""A judgement in words: one sentence first, then the way."""

from __future__ import annotations

from kvctl.model.net import Address
from kvctl.model.rules import Verb
from kvctl.model.text import plural
from kvctl.policy.comments import comment_text, read_aside_pod, read_dropped, read_exclusion, read_pod
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.packet import Packet
from kvctl.trace.said import own_rule, owner_of, service_of
from kvctl.trace.walk import Step


def sentence(judgement: Judgement) -> str:
    """What becomes of the packet, and why, in one sentence."""
    who = _named(judgement.packet)
    if judgement.verdict is None:
        return f"{who}: cannot be judged: {judgement.unknown[0]}"
    return "; ".join(filter(None, (f"{who}: {_verdict(judgement)}", judgement.trouble, _kept(judgement))))


def _kept(judgement: Judgement) -> str:
    """That connections which are there go on with another source than a new one has."""
    exempt = judgement.decided is not None and judgement.decided.place.table == "raw"
    if not judgement.leaves or exempt:
        # What raw exempts from conntrack is of no connection, be there one or not.
        return ""
    kept = [flow for flow in judgement.others if flow.original.source == judgement.packet.source]
    sources = dict.fromkeys(flow.reply.destination for flow in kept)
    if not sources or sources.keys() == {judgement.source}:
        return ""
    count = f"{plural(len(kept), 'connection')} that {'is' if len(kept) == 1 else 'are'} there already"
    return f"{count} {'goes' if len(kept) == 1 else 'go'} on with {', '.join(map(str, sources))}"


def _named(packet: Packet) -> str:
    source = _end(packet.source, packet.source_port)
    return f"{packet.protocol} from {source} to {_end(packet.destination, packet.destination_port)}"


def _end(address: Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _verdict(judgement: Judgement) -> str:
    if judgement.verdict is Verdict.DROPPED:
        return _dropped(judgement)
    if judgement.verdict is Verdict.UNROUTABLE:
        return f"goes nowhere: {judgement.reason}"
    if judgement.verdict is Verdict.DELIVERED:
        return f"stays here: {judgement.reason}"
    way = f"leaves by {judgement.interface}"
    own = judgement.packet.source == judgement.source
    if judgement.flow is not None:
        return f"{way} with {'its own address' if own else judgement.source}{_in_connection(judgement)}"
    if judgement.verdict is Verdict.REWRITTEN:
        return f"{way} with {judgement.source}, the VIP of {judgement.service}"
    why = f", because {judgement.reason}" if judgement.reason else ""
    if judgement.verdict is Verdict.UNCHANGED:
        return f"{way} with its own address{why}"
    return f"{way} with {judgement.source}, by {_translation(judgement)}{why}"


def _in_connection(judgement: Judgement) -> str:
    service = f" (the VIP of {judgement.service})" if judgement.service is not None else ""
    return f"{service}, as the connection that it is part of began: rules that rewrite are not asked again"


def _translation(judgement: Judgement) -> str:
    step = judgement.decided
    name = (
        step.rule.target.name if step is not None and step.rule is not None and step.rule.target else "a rule"
    )
    return f"{name} ({judgement.owner})"


def _dropped(judgement: Judgement) -> str:
    step = judgement.decided
    assert step is not None
    where = f"in {step.place.table} {step.chain}"
    if step.rule is None:
        return f"is dropped {where}, by the policy of the chain"
    rule = own_rule(step)
    if rule is None:
        name = step.rule.target.name if step.rule.target is not None else "DROP"
        return f"is dropped {where}, by a {name} ({owner_of(step)})"
    if read_dropped(comment_text(rule) or "") is not None:
        return f"is dropped {where}: {judgement.service} wants silence where its VIP is not (kvctl.io/without-vip)"
    return f"is dropped {where}: the heartbeats of {judgement.service} have stopped, and its VIP may be elsewhere"


def why(step: Step) -> str:
    """What a step is about, in a few words."""
    if step.rule is None:
        return "no rule ended the walk: the policy of the chain"
    if step.doubt is not None:
        return f"cannot be judged ({step.doubt})"
    rule = own_rule(step)
    if rule is None:
        return owner_of(step)
    text = comment_text(rule) or ""
    kind = read_exclusion(text)
    if kind is not None:
        return f"never rewritten to: {kind}"
    pod = read_pod(text) or read_aside_pod(text)
    if pod is not None:
        return f"pod {pod[1]} of {pod[0].ref}"
    service = service_of(step)
    what = {Verb.SNAT: "rewrites", Verb.DROP: "drops", Verb.MARK: "marks", Verb.RETURN: "leaves as it is"}
    if service is not None and rule.target.verb in what:
        return f"{service} {what[rule.target.verb]}"
    return str(service or "kvctl's")
