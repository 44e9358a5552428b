"""Routing rules and routes of other programs that are in the way of leading traffic out by an interface."""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.doctor.finding import Finding, fine, warning
from kvctl.doctor.scene import Scene

CHECK = "routing"


def check(scene: Scene) -> Iterator[Finding]:
    """What uses kvctl's mark, priorities or table, each with the setting that gives way."""
    for sentence in scene.routing.in_the_way:
        text, _, mend = sentence.rpartition(": ")
        yield warning(CHECK, text, mend=mend)
    names = ", ".join(sorted(scene.led_out_by))
    if names and not scene.routing.in_the_way:
        yield fine(CHECK, f"traffic is led out by {names}, and nothing is in its way")
