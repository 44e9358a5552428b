"""kvctl's own rules: are they as kvctl writes them, and as the source wants them? `show` says the same in depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvctl.doctor.finding import Finding, Level, fine, unknown, warning
from kvctl.doctor.order import jump_faults
from kvctl.doctor.scene import Scene
from kvctl.model.net import Family
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import HOOK_CHAINS, Hook
from kvctl.model.text import one_line, plural
from kvctl.policy import layout
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.detail import Detail, detail
from kvctl.reconcile.look import Look
from kvctl.reconcile.problems import Weight
from kvctl.reconcile.report import Item, Status
from kvctl.reconcile.side_by_side import Standing
from kvctl.reconcile.target import Scope

CHECK = "rules"
_MOST_NAMED = 3
_LONGEST = 400

_Key = tuple[ServiceRef, Family]


class _Fault(NamedTuple):
    """What is wrong with the rules of a Service, without its name: several may share it."""

    level: Level
    text: str
    mend: str
    evidence: str = ""


def check(scene: Scene) -> Iterator[Finding]:
    """All Services that have rules here or, if a source was named, are wanted here; grouped by what is wrong."""
    if scene.look is None:
        return
    alone = compare(scene.look, None, scope=Scope())
    details = detail(scene.look, alone, host=scene.host, assume_vip=True)
    faults = _faults(scene, scene.look, details)
    if scene.wish is not None:
        wanted = compare(scene.look, scene.wish, scope=scene.wish.scope)
        in_depth = detail(scene.look, wanted, host=scene.host, assume_vip=True)
        faults |= _by_source(scene, _faults(scene, scene.look, in_depth), broken=set(faults))
        yield from _warnings(scene, wanted)
    yield from _grouped(faults)
    if not faults:
        yield from _all_is_well(scene, scene.look)
        yield from _of_connections(scene, details)


def _faults(scene: Scene, look: Look, details: Iterable[Detail]) -> dict[_Key, _Fault]:
    """By Service and family."""
    told = {
        family
        for family, site in look.sites.items()
        if any(each.level is Level.FAILURE for each in jump_faults(scene, site))
    }
    found = {}
    for each in details:
        item = each.item
        if item.ref is None or item.family is None or (item.family in told and _is_cut_off(look, each)):
            continue  # what is wrong with the jumps into the tables the order's check tells, once
        fault = _fault(scene, look, each)
        if fault is not None:
            found[item.ref, item.family] = fault
    return found


def _is_cut_off(look: Look, each: Detail) -> bool:
    """Whether no packet comes to a Service's rules because of the jump into a table, or an empty chain behind it."""
    assert each.item.family is not None  # else it is no item of rules
    chains = look.sites[each.item.family].snapshot.chains
    empty = {hook.root for hook in Hook if chains.get(hook.root) == ()}
    return not each.item.pods or any(
        row.standing is not Standing.THERE and (row.chain in HOOK_CHAINS or row.chain in empty)
        for row in each.rows
    )


def _fault(scene: Scene, look: Look, each: Detail) -> _Fault | None:
    item, mend = each.item, scene.apply()
    if item.status is Status.MISSING:
        why = f": {item.reason}" if item.reason is not None else ""
        return _Fault(Level.FAILURE, f"its rules are wanted here and missing{why}", mend)
    if item.status is Status.RETIRING and item.reason is not None:
        return _Fault(Level.WARNING, item.reason.partition(";")[0], mend)
    text = next((p.text for p in each.problems if p.weight is Weight.RULES), None)
    if item.status is not Status.DRIFTED or text is None:
        return None
    if not item.pods and not item.drops:
        # By what is left of them nobody needs these rules, which is what is said else.
        said = (
            "no rule leads any pod to its rules: somebody has removed its pods' jumps, or the pods have gone"
        )
        return _Fault(Level.FAILURE, said, mend)
    wrong = [row for row in each.rows if row.standing is not Standing.THERE]
    harmless = bool(wrong) and all(
        row.standing is Standing.RENAMED and layout.is_dispatch_chain(row.chain) for row in wrong
    )
    # The last part of such a sentence says what mends it, which stands on a line of its own here.
    said, level = text.rpartition("; ")[0] or text, Level.WARNING if harmless else Level.FAILURE
    return _Fault(level, said, mend, _strange_rule(look, item))


def _strange_rule(look: Look, item: Item) -> str:
    """A rule of another program in the Service's own chain; empty: there is none."""
    if item.ref is None or item.family is None:
        return ""
    own = layout.REWRITING.service_chain(item.ref)
    rules = look.sites[item.family].snapshot.chains.get(own, ())
    text = next((each.text for each in rules if "kvctl:" not in each.text), None)
    return "" if text is None else one_line(f"-A {own} {text}", longest=_LONGEST)


def _by_source(scene: Scene, faults: dict[_Key, _Fault], *, broken: set[_Key]) -> dict[_Key, _Fault]:
    """What differs from the source; an agent that lives may have other settings than this command."""
    if scene.agent is None:
        return faults
    mend = "an agent lives here: ask with its settings, in its pod (kvctl doctor --cluster), and see its log"
    return {
        key: fault if key in broken else _Fault(Level.WARNING, fault.text, mend)
        for key, fault in faults.items()
    }


def _grouped(faults: dict[_Key, _Fault]) -> Iterator[Finding]:
    services: dict[_Fault, list[str]] = {}
    for (ref, family), fault in sorted(faults.items()):
        services.setdefault(fault, []).append(f"{ref} ({family})")
    for fault, names in services.items():
        named = ", ".join(names[:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        text = one_line(f"{named}{more}: {fault.text}", longest=_LONGEST)
        yield Finding(CHECK, fault.level, text, fault.evidence, fault.mend)


def _warnings(scene: Scene, wanted: Compared) -> Iterator[Finding]:
    """What `apply` would warn of, and rules that it would take away."""
    for item in wanted.items:
        for text in item.warnings:
            if not any(text == each for each in scene.routing.in_the_way):
                yield warning(
                    CHECK,
                    one_line(f"{item.ref}: {text}", longest=_LONGEST),
                    mend=f"kvctl egress show {item.ref}",
                )
        if _is_to_go(item):
            text = f"{item.ref} ({item.family}) has rules here, and is to have none: {item.reason}"
            yield warning(CHECK, one_line(text, longest=_LONGEST), mend=scene.apply())


def _is_to_go(item: Item) -> bool:
    return item.status in (Status.SKIPPED, Status.ELSEWHERE) and bool(item.changes) and not item.drops


def _all_is_well(scene: Scene, look: Look) -> Iterator[Finding]:
    services = {ref for site in look.sites.values() for ref in site.installed.refs}
    if services:
        what = "the source wants them" if scene.wish is not None else "kvctl writes them"
        yield fine(CHECK, f"the rules of {plural(len(services), 'Service')} are as {what}")
    elif any(site.snapshot.chains for site in look.sites.values()):
        return  # flushed, which is told elsewhere
    elif scene.wish is not None:
        yield fine(CHECK, "the source wants no rules here, and there are none")
    elif scene.agent is not None:
        text = "an agent lives here, and there is no rule of kvctl's: none is wanted here, or somebody has removed them"
        yield unknown(CHECK, text, mend="kvctl doctor --cluster tells which")
    else:
        yield fine(CHECK, "there are no rules of kvctl's here: no pod is rewritten")


def _of_connections(scene: Scene, details: Iterable[Detail]) -> Iterator[Finding]:
    """Where the rules are right: what of the connections is not."""
    for each in details:
        for problem in each.problems:
            if problem.weight in (Weight.PORTS, Weight.CONNECTIONS):
                if problem.weight is Weight.CONNECTIONS:
                    said, mend = (
                        problem.text.partition(": ")[0],
                        f"{scene.apply()} (drops them, and they begin anew)",
                    )
                else:
                    said, _, mend = problem.text.rpartition(": ")
                yield warning("connections", f"{each.item.ref}: {said}", mend=mend)
