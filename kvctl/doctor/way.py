"""Whether what rewritten pods send comes through everybody's rules: a firewall may drop it before it leaves.

What cannot be judged is not told: only where every packet that was followed, and has a route, ends at a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kvctl.doctor.finding import Finding, Level, fine
from kvctl.doctor.packets import Sample, judged, judged_answer, samples
from kvctl.doctor.scene import Scene
from kvctl.model.net import host_network
from kvctl.model.text import one_line, plural
from kvctl.netfilter.native import ask_ruleset, corrected_reading, read_ruleset
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.said import own_rule, owner_of, spelled
from kvctl.trace.walk import Step

CHECK = "way"


class _Dropped(NamedTuple):
    """The end of what a pod sends, or of the answers to it."""

    sample: Sample
    sent: Judgement
    step: Step
    is_answer: bool


def check(scene: Scene) -> Iterator[Finding]:
    """A few pods; each rule that drops is told once."""
    # Else it would believe what iptables-save makes of native rules.
    scene = scene._replace(reading=corrected_reading(scene.reading, read_ruleset(ask_ruleset())))
    dropped: dict[tuple[str, str, str], _Dropped] = {}
    passing = 0
    for sample in samples(scene):
        sent = [judged(packet, scene.reading) for packet in sample.packets]
        answers = [each for gone in sent if (each := judged_answer(gone, scene)) is not None]
        passing += any(each.leaves for each in sent)
        for found, is_answer in ((sent, False), (answers, True)):
            step = _end(found)
            if step is not None:
                key = (step.place.backend, step.place.table, spelled(step))
                dropped.setdefault(key, _Dropped(sample, sent[0], step, is_answer))
                break
    yield from map(_finding, dropped.values())
    if passing and not dropped:
        yield fine(CHECK, f"what {plural(passing, 'pod')} sent out would come through everybody's rules")


def _end(found: Sequence[Judgement]) -> Step | None:
    """The first rule, if all that have a route are dropped, and not by kvctl, which does so where that is wanted."""
    routed = [each for each in found if each.verdict is not Verdict.UNROUTABLE]
    steps = [each.decided for each in routed if each.verdict is Verdict.DROPPED and each.decided is not None]
    if not steps or len(steps) < len(routed) or any(own_rule(step) is not None for step in steps):
        return None
    return steps[0]


def _finding(found: _Dropped) -> Finding:
    sample, step = found.sample, found.step
    where = f"{step.chain} of {step.place.table} ({sample.policy.family}, {step.place.backend})"
    whose = "the policy of the chain" if step.rule is None else f"a rule that is {owner_of(step)}"
    sends = f"what pod {sample.pod} of {sample.policy.ref} sends out"
    what = f"every answer to {sends}" if found.is_answer else sends
    seen = one_line(spelled(step), longest=300)
    # In a chain of its own it may be a network policy, which lets pass what it is about.
    level = Level.FAILURE if step.chain == step.place.hook else Level.WARNING
    return Finding(CHECK, level, f"{what} is dropped in {where}, by {whose}", seen, _mend(found))


def _mend(found: _Dropped) -> str:
    sample, step, packet = found.sample, found.step, found.sent.packet
    target = f"[{packet.destination}]" if packet.destination.version == 6 else str(packet.destination)
    traced = f"kvctl egress trace --from {sample.pod} --to {target}:{packet.destination_port} --proto {packet.protocol}"
    if step.rule is not None and not found.is_answer:
        return f"take that rule away, or accept the pods before it; the way: {traced}"
    if step.rule is not None:
        return "take that rule away, or accept before it what belongs to connections that are there"
    name = "iptables" if sample.pod.version == 4 else "ip6tables"
    insert, pod = f"{name}-{step.place.backend} -I {step.chain}", host_network(sample.pod)
    answers = f"{insert} -d {pod} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    return (
        f"have who sets it accept the pods and the answers; by hand: {insert} -s {pod} -j ACCEPT; {answers}"
    )
