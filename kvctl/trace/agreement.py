"""One judgement of all that may become of a packet: what its ways have in common, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kvctl.model.flows import Flow
from kvctl.trace.judgement import Judgement
from kvctl.trace.said import spelled
from kvctl.trace.walk import Step

_SEVERAL = "where it goes is one of several, by a match that cannot be judged; the verdict is the same"


def agreed(
    results: Sequence[Judgement], *, flow: Flow | None, others: tuple[Flow, ...], notes: tuple[str, ...]
) -> Judgement:
    """What all `results` say, with what holds for each; without a verdict where they differ."""
    first = results[0]
    unknown = list(dict.fromkeys(text for each in results for text in each.unknown))
    if not unknown and len({_outcome(each) for each in results}) > 1:
        doubts = (step for each in results for step in each.steps if step.doubt is not None)
        unknown = list(dict.fromkeys(f"{named(step)}: {step.doubt}" for step in doubts))
        unknown = unknown or [_both_back_ends(results)]
    if unknown:
        return Judgement(
            first.packet, flow=flow, others=others, notes=notes, unknown=tuple(unknown), steps=first.steps
        )
    if len({each.destination for each in results}) > 1:
        notes = (*notes, _SEVERAL)
    return replace(first, flow=flow, others=others, notes=notes)


def named(step: Step) -> str:
    """The rule of a step with its table."""
    return f"{step.place.table} {spelled(step, whole=False)}"


def _outcome(judgement: Judgement) -> tuple[object, ...]:
    return judgement.verdict, judgement.source, judgement.interface


def _both_back_ends(results: Iterable[Judgement]) -> str:
    steps = (each.decided or (each.steps[-1] if each.steps else None) for each in results)
    rules = dict.fromkeys(f"{step.place.backend}: {named(step)}" for step in steps if step is not None)
    return f"both back ends have rules for it, and which are asked first cannot be read ({'; '.join(rules)})"
