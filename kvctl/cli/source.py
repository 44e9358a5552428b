"""Where the objects come from: files, else the cluster."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from kvctl.cli.output import input_errors, note, printable, warning
from kvctl.cli.progress import progress
from kvctl.errors import ClusterError, InputError
from kvctl.model.objects import Objects
from kvctl.model.ref import ServiceRef
from kvctl.model.text import plural
from kvctl.policy.annotations import Problem, misspelt_switch
from kvctl.policy.resolution import Resolution
from kvctl.reconcile.report import Item


def load(*, filenames: Sequence[str], kubeconfig: str | None, context: str | None) -> Objects:
    """All objects; raises InputError (files) or ClusterError."""
    if filenames:
        from kvctl.cluster.manifests import read_manifests

        with progress("reading the files"):
            return read_manifests(
                filenames, stdin=sys.stdin.buffer if sys.stdin is not None else io.BytesIO()
            )
    from kvctl.cluster.api import read_cluster

    try:
        with progress("reading the cluster"):
            return read_cluster(kubeconfig=kubeconfig, context=context)
    except ClusterError as error:
        error.hint = (
            f"{error.hint}, or give manifests with -f FILE" if error.hint else "give manifests with -f FILE"
        )
        raise


def report_source(objects: Objects, resolution: Resolution, *, pruned: bool = False) -> int:
    """Say what is wrong with the objects themselves; the exit status this makes."""
    input_errors(objects.errors)
    for text in dict.fromkeys((*objects.warnings, *resolution.networks.warnings)):
        warning(printable(text))
    for ref, service in resolution.services.items():
        if (misspelt := misspelt_switch(service.annotations)) is not None:
            warning(f"{ref}: {misspelt}")
    if pruned and objects.unidentified:
        warning(
            "nothing was pruned: an object without a readable name may be a Service that is then not absent"
        )
    return 1 if objects.errors else 0


def report_problems(resolution: Resolution, refs: frozenset[ServiceRef] | None) -> int:
    """Every annotation that is not accepted as an error with its hint; the exit status this makes."""
    shown = set()
    found = [(skip.ref, skip.problems) for skip in resolution.skipped]
    found += [(wanted.policy.ref, wanted.problems) for wanted in resolution.wanted]
    for ref, problems in found:
        for problem in problems:
            text = f"{ref}: {problem}"
            if text not in shown and (refs is None or ref in refs):
                shown.add(text)
                input_errors([InputError(text, hint=problem.hint)])
    return 1 if shown else 0


def report_absent(refs: Iterable[ServiceRef] | None, resolution: Resolution, *, pruned: bool = False) -> int:
    """Services that were named but are not there, or do not ask for egress; the exit status this makes."""
    known = {skip.ref for skip in resolution.skipped} | {w.policy.ref for w in resolution.wanted}
    status = 0
    for ref in sorted(refs or ()):
        if ref in known:
            continue
        if ref in resolution.present:
            note(f"{ref} does not ask for egress: kube-vip.io/egress (or kvctl.io/egress) is not true")
            status = 1
        elif not pruned:
            error = InputError(
                f"{ref} is not in the source",
                hint="see which Services there are with: kvctl egress compute; flush removes rules it has here",
            )
            input_errors([error])
            status = 1
    return status


def without_errors(items: Iterable[Item], resolution: Resolution) -> list[Item]:
    """The items as they are to be explained: what `report_problems` has said of them is not said again."""
    told = {(skip.ref, skip.family): skip.problems for skip in resolution.skipped if skip.problems}
    return [_without(told.get((item.ref, item.family), ()), item) if item.ref else item for item in items]


def _without(problems: Sequence[Problem], item: Item) -> Item:
    if not problems:
        return item
    said = "; ".join(map(str, problems))
    see = "see the error above" if len(problems) == 1 else "see the errors above"
    reason, *warnings = (
        text.removesuffix(said) + see if text is not None and text.endswith(said) else text
        for text in (item.reason, *item.warnings)
    )
    return item._replace(reason=reason, warnings=tuple(text for text in warnings if text is not None))


def nobody_asks(objects: Objects, resolution: Resolution) -> str:
    """Why a source has no item at all, with the Services that look as if they should have been one."""
    if not resolution.present:
        others = f"; passed over: {', '.join(objects.passed_over)}" if objects.passed_over else ""
        return f"there is no Service in the source{others}"
    half = [
        str(ref)
        for ref, service in resolution.services.items()
        if any(name.startswith("kube-vip.io/egress-") for name in service.annotations)
    ]
    told = f"; {', '.join(half[:3])} has egress annotations, but not that one" if half else ""
    several = plural(len(resolution.present), "Service")
    return f"no Service asks for egress: kube-vip.io/egress or kvctl.io/egress is true for none of {several}{told}"
