"""What `resolve` says about Services, in the form that tests compare."""

from __future__ import annotations

from kvctl.model.host import Host
from kvctl.model.net import Family
from kvctl.model.objects import CidrHint, Endpoint, Node, Pod, Service
from kvctl.model.policy import EgressPolicy
from kvctl.model.settings import Settings
from kvctl.policy.resolution import Resolution
from kvctl.policy.resolve import resolve
from kvctl.policy.verdict import Skipped, Wanted
from tests.builders import objects, ref
from tests.builders import settings as default_settings

Thing = Service | Pod | Endpoint | Node | CidrHint


def resolved(
    *things: Thing, settings: Settings | None = None, from_api: bool = False, host: Host | None = None
) -> Resolution:
    """The answer for these objects, without a look at this machine unless `host` is given."""
    return resolve(objects(*things, from_api=from_api), settings or default_settings(), host=host)


def only(answer: Resolution) -> Wanted:
    """The one Service that is wanted, where nothing is skipped."""
    assert answer.skipped == ()
    (wanted,) = answer.wanted
    return wanted


def policy_of(answer: Resolution, name: str, family: Family = Family.IPV4) -> EgressPolicy:
    """The policy of one Service in one family."""
    found = [w.policy for w in answer.wanted if w.policy.ref == ref(name) and w.policy.family is family]
    assert len(found) == 1, f"{name}: {[skip.reason for skip in answer.skipped]}"
    return found[0]


def skip_of(answer: Resolution, name: str, family: Family | None = None) -> Skipped:
    """The one reason for which a Service is skipped."""
    found = [s for s in answer.skipped if s.ref == ref(name) and (family is None or s.family is family)]
    assert len(found) == 1, f"{name}: {len(found)} answers"
    return found[0]


def wanted_names(answer: Resolution) -> list[str]:
    """The Services that get rules, each once a family."""
    return sorted(str(wanted.policy.ref) for wanted in answer.wanted)


def addresses(policy: EgressPolicy) -> list[str]:
    """Its pods' addresses."""
    return [str(pod.address) for pod in policy.pods]
