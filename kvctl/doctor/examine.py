"""All checks, causes before consequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kvctl.doctor import (
    backends,
    binaries,
    conntrack,
    extensions,
    heartbeats,
    lockfile,
    order,
    privileges,
    ranges,
    routing,
    rules,
    settings,
    vips,
    way,
)
from kvctl.doctor.finding import Finding, Level, fine, from_error, unknown, worst_first
from kvctl.doctor.scene import Scene
from kvctl.errors import KvctlError
from kvctl.netfilter.binaries import Backend

_FAILED, _BLIND = 1, 4


class Examination(NamedTuple):
    """What was found, problems first."""

    backend: Backend | None
    """None: nobody can tell."""
    findings: tuple[Finding, ...]
    rules_read: bool

    @property
    def exit_status(self) -> int:
        """0 fine or warnings only, 1 a failure, 4 where the rules could not be read at all."""
        if not self.rules_read:
            return _BLIND
        return _FAILED if any(each.level is Level.FAILURE for each in self.findings) else 0


def examine(scene: Scene) -> Examination:
    """Make every check; one that fails itself is unknown, and the others are made all the same."""
    backend = binaries.in_use(scene)
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        (privileges.CHECK, lambda: privileges.check(scene.privileges, backend=backend)),
        (binaries.CHECK, lambda: binaries.check(scene)),
        (backends.CHECK, lambda: backends.check(scene)),
        (lockfile.CHECK, lambda: lockfile.check(scene)),
        (extensions.CHECK, lambda: extensions.check(scene)),
        (settings.CHECK, lambda: settings.check(scene)),
        (conntrack.CHECK, conntrack.check),
        (ranges.CHECK, lambda: ranges.check(scene)),
        (order.CHECK, lambda: order.check(scene)),
        (rules.CHECK, lambda: rules.check(scene)),
        (way.CHECK, lambda: way.check(scene)),
        (vips.CHECK, lambda: vips.check(scene)),
        (heartbeats.CHECK, lambda: heartbeats.check(scene)),
        (routing.CHECK, lambda: routing.check(scene)),
        ("agent", lambda: [_agent(scene)]),
        ("cluster", lambda: _cluster(scene)),
    )
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:
            # Somebody who asks what is wrong gets the other checks, whatever became of this one.
            hint = error.hint if isinstance(error, KvctlError) else None
            said = (
                str(error) if isinstance(error, (KvctlError, OSError)) else f"{type(error).__name__}: {error}"
            )
            findings.append(unknown(name, f"this check failed itself: {said}", mend=hint))
    return Examination(
        backend=backend, findings=tuple(worst_first(findings)), rules_read=scene.look is not None
    )


def _agent(scene: Scene) -> Finding:
    if scene.agent is not None:
        return fine("agent", f"an agent keeps the rules of this node: {scene.agent}")
    return fine("agent", "no agent lives here: rules change only by hand (kvctl egress apply)")


def _cluster(scene: Scene) -> list[Finding]:
    """What was asked and did not answer: rules go on to act, but nothing follows the cluster."""
    return [] if scene.silence is None else [from_error("cluster", scene.silence, level=Level.WARNING)]
