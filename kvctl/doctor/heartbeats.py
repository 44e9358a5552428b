"""The heartbeats that rules need to use their VIP (serviceElection): do they come?"""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.doctor.finding import Finding, failure, fine
from kvctl.doctor.scene import Scene
from kvctl.model.policy import EgressPolicy
from kvctl.netfilter import fence
from kvctl.reconcile.detail import Beat

CHECK = "heartbeats"


def check(scene: Scene) -> Iterator[Finding]:
    """Of each Service in each family whose rules have a fence."""
    for policy in _fenced(scene):
        assert policy.fence is not None
        age = fence.ages([policy.fence.name]).get(policy.fence.name)
        beat = Beat(policy.fence.seconds, age, policy.drops_without_vip)
        name = f"{policy.ref} ({policy.vip})"
        if beat.is_late:
            seen = f"an agent lives: {scene.agent}" if scene.agent is not None else "no agent lives here"
            mend = "start the agent, or see its log for why it does not renew; by hand: "
            mend += scene.apply("--with-vip")
            yield failure(CHECK, f"{name}: {beat.consequence}", evidence=seen, mend=mend)
        else:
            yield fine(CHECK, f"{name}: {beat}")


def _fenced(scene: Scene) -> list[EgressPolicy]:
    sites = scene.look.sites.values() if scene.look is not None else ()
    policies = (service.policy for site in sites for service in site.installed.services.values())
    return [policy for policy in policies if policy is not None and policy.fence is not None]
