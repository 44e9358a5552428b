"""Whether what rewritten pods send comes through everybody's rules: a firewall may drop it before it leaves.

What cannot be judged is not told: only where every packet that was followed, and has a route, ends at a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvctl.doctor.finding import Finding, Level, fine
from kvctl.doctor.packets import Sample, judged, samples
from kvctl.doctor.scene import Scene
from kvctl.model.net import host_network
from kvctl.model.text import one_line, plural
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.said import own_rule, owner_of, spelled
from kvctl.trace.walk import Step

CHECK = "way"


def check(scene: Scene) -> Iterator[Finding]:
    """A few pods; each rule that drops is told once."""
    dropped: dict[tuple[str, str, str], tuple[Sample, Judgement]] = {}
    passing = 0
    for sample in samples(scene):
        found = [judged(packet, scene.reading) for packet in sample.packets]
        passing += any(each.leaves for each in found)
        end = _end(found)
        if end is not None and end.decided is not None:
            step = end.decided
            key = (step.place.backend, step.place.table, spelled(step))
            dropped.setdefault(key, (sample, end))
    for sample, end in dropped.values():
        assert end.decided is not None
        yield _finding(sample, end, end.decided)
    if passing and not dropped:
        yield fine(CHECK, f"what {plural(passing, 'pod')} sent out would come through everybody's rules")


def _end(found: Sequence[Judgement]) -> Judgement | None:
    """The first, if all that have a route are dropped, and not by kvctl, which does so where that is wanted."""
    routed = [each for each in found if each.verdict is not Verdict.UNROUTABLE]
    if not routed or any(
        each.verdict is not Verdict.DROPPED or each.decided is None or own_rule(each.decided) is not None
        for each in routed
    ):
        return None
    return routed[0]


def _finding(sample: Sample, end: Judgement, step: Step) -> Finding:
    where = f"{step.chain} of {step.place.table} ({sample.policy.family}, {step.place.backend})"
    whose = "the policy of the chain" if step.rule is None else f"a rule that is {owner_of(step)}"
    text = f"what pod {sample.pod} of {sample.policy.ref} sends out is dropped in {where}, by {whose}"
    packet = end.packet
    target = f"[{packet.destination}]" if packet.destination.version == 6 else str(packet.destination)
    traced = f"kvctl egress trace --from {sample.pod} --to {target}:{packet.destination_port} --proto {packet.protocol}"
    seen = one_line(spelled(step), longest=300)
    # In a chain of its own it may be a network policy, which lets pass what it is about.
    level = Level.FAILURE if step.chain == step.place.hook else Level.WARNING
    if step.rule is None:
        name = "iptables" if sample.pod.version == 4 else "ip6tables"
        accept = f"{name}-{step.place.backend} -I {step.chain} -s {host_network(sample.pod)} -j ACCEPT"
        mend = (
            f"have who sets it accept the pods and the answers to them, by hand: {accept}; the way: {traced}"
        )
    else:
        mend = f"take that rule away, or accept the pods before it; the way: {traced}"
    return Finding(CHECK, level, text, seen, mend)
