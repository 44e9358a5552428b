"""Leading traffic out by an interface: do marks lead somewhere, and is nobody else in the way?"""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.doctor.finding import Finding, failure, fine, warning
from kvctl.doctor.scene import Scene

CHECK = "routing"
_OPEN = (
    "name an interface that is there and has a way in kube-vip.io/serviceInterface of {ref}, or give it a next hop by "
    "kvctl.io/gateway, or take the annotation away; then: {apply}"
)


def check(scene: Scene) -> Iterator[Finding]:
    """What uses kvctl's mark, priorities or table, each with the setting that gives way."""
    for sentence in scene.routing.in_the_way:
        text, _, mend = sentence.rpartition(": ")
        yield warning(CHECK, text, mend=mend)
    broken = list(_broken(scene))
    yield from broken
    names = ", ".join(sorted(scene.led_out_by))
    if names and not scene.routing.in_the_way and not broken:
        yield fine(CHECK, f"traffic is led out by {names}, and nothing is in its way")


def _broken(scene: Scene) -> Iterator[Finding]:
    """Services whose rules mark packets for a way that is not there."""
    for site in scene.look.sites.values() if scene.look is not None else ():
        for service in site.installed.services.values():
            policy = service.policy
            if policy is None or policy.mark is None:
                continue
            said = scene.routing.broken(policy.mark, site.family, scene.settings.space)
            if said is None:
                continue
            text, _, rest = said.partition("; ")
            table = scene.settings.space.table(policy.mark.value)
            if policy.interface is not None and policy.interface not in scene.host.interfaces:
                text = (
                    f"this host has no interface {policy.interface}, by which its traffic is to leave: {text}"
                )
            mend = scene.apply() if rest else _OPEN.format(ref=policy.ref, apply=scene.apply())
            yield failure(
                CHECK,
                f"{policy.ref} ({policy.vip}): {text}",
                evidence=f"ip route show table {table}",
                mend=mend,
            )
