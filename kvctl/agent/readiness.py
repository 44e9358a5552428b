"""Whether a pod's traffic is as its Services ask for: the one judgement of the readiness gate and of `egress wait`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from kvctl.agent.round import Round, selects
from kvctl.model.net import Address, family_of
from kvctl.model.objects import Pod, Service
from kvctl.reconcile.report import Item, Status


class Reason(StrEnum):
    """Why a pod is ready or not: the `reason` of its condition."""

    RULES_IN_KERNEL = "RulesInKernel"
    TRAFFIC_DROPPED = "TrafficDropped"
    """The VIP is on another node, and `kvctl.io/without-vip: drop` is in place here: nothing can leak."""
    NO_EGRESS_SERVICE = "NoEgressService"
    """Nobody wants this pod's traffic rewritten: a gate must not hold it back for ever."""
    VIP_ELSEWHERE = "VIPElsewhere"
    """The VIP is on another node: the pod's traffic would leave with the address of this one."""
    RULES_PENDING = "RulesPending"
    NOT_PROGRAMMED = "NotProgrammed"
    """The Service cannot have rules, or none for this pod: the message says what to mend."""
    OVERRIDDEN = "Overridden"
    NO_ADDRESS = "NoAddress"
    HOST_NETWORK = "HostNetwork"
    """A Service selects a pod that has the node's own address, which is never rewritten."""
    TERMINATING = "Terminating"


class Readiness(NamedTuple):
    """The judgement of one pod."""

    ready: bool
    reason: Reason
    message: str
    """One sentence, printable."""


PENDING = Readiness(False, Reason.RULES_PENDING, "the agent has not written any rules yet")


def pod_ready(done: Round, namespace: str, name: str) -> tuple[bool, str] | None:
    """Whether the pod is ready and why (not), by the last round; None: this node has no such pod (yet)."""
    pod = done.pod(namespace, name)
    if pod is None:
        return None
    judged = judge_pod(done, pod)
    return judged.ready, judged.message


def judge_pod(done: Round, pod: Pod) -> Readiness:
    """Judge one pod of this node by the last round.

    Ready: in every family that it shares with the VIP of a Service, each egress Service that selects it has its
    rules for this very address in the kernel, or its traffic dropped where it may not leave. An egress Service that
    cannot be programmed keeps its pods from being ready; where no Service asks, they are.
    """
    if done.resolution is None:
        return PENDING
    if pod.deleting or pod.finished:
        # Its successor may have the same name, and this node may not have heard of it yet.
        return Readiness(False, Reason.TERMINATING, f"pod {pod.name} is ending")
    services = list(_asking(done, pod))
    if not services:
        return Readiness(True, Reason.NO_EGRESS_SERVICE, "no Service asks for egress of this pod")
    if pod.host_network:
        return Readiness(
            False,
            Reason.HOST_NETWORK,
            f"Service {services[0].ref} selects this pod, but it has the node's own address (hostNetwork)",
        )
    if not pod.addresses:
        return Readiness(False, Reason.NO_ADDRESS, "the pod has no address yet")
    found = [judged for service in services for judged in _judge_service(done, service, pod)]
    return min(found, key=_graver, default=_OF_OTHER_FAMILY)


_OF_OTHER_FAMILY = Readiness(
    True,
    Reason.NO_EGRESS_SERVICE,
    "no Service with egress has a VIP of a family in which the pod has an address",
)
_ORDER = (Reason.TRAFFIC_DROPPED, Reason.RULES_IN_KERNEL)


def _graver(judged: Readiness) -> tuple[bool, int]:
    """What keeps it from being ready comes first, then what is less than rewriting."""
    return judged.ready, _ORDER.index(judged.reason) if judged.ready else 0


def _asking(done: Round, pod: Pod) -> Iterable[Service]:
    """The egress Services that select the pod."""
    for ref in sorted(done.asking.get(pod.namespace, ())):
        service = done.services.get(ref)
        if service is not None and selects(service, pod, objects=done.objects) and done.asks(ref):
            yield service


def _judge_service(done: Round, service: Service, pod: Pod) -> Iterable[Readiness]:
    items = done.by_ref.get(service.ref, [])
    if not items:
        yield Readiness(
            False, Reason.RULES_PENDING, f"the rules of Service {service.ref} are not written yet"
        )
    for item in items:
        if item.family is None:
            yield _refused(item)
        for address in pod.addresses:
            if family_of(address) is item.family:
                yield _judge_item(item, address)


def _judge_item(item: Item, address: Address) -> Readiness:
    where = f"Service {item.ref} ({item.family})"
    match item.status:
        case Status.APPLIED if any(pod.address == address for pod in item.pods):
            sentence = f"{where}: the rules are in the kernel, {address} leaves as {item.vip}"
            return Readiness(True, Reason.RULES_IN_KERNEL, sentence)
        case Status.APPLIED | Status.SKIPPED:
            return _refused(item)
        case Status.ELSEWHERE if is_dropping(item) and any(pod.address == address for pod in item.pods):
            return Readiness(True, Reason.TRAFFIC_DROPPED, f"{where}: {item.reason}")
        case Status.ELSEWHERE:
            return Readiness(False, Reason.VIP_ELSEWHERE, f"{where}: {item.reason}")
        case Status.OVERRIDDEN:
            return Readiness(False, Reason.OVERRIDDEN, f"{where}: {item.reason}")
    return Readiness(
        False, Reason.RULES_PENDING, f"{where}: {item.reason or 'the rules are not in the kernel'}"
    )


def _refused(item: Item) -> Readiness:
    why = item.reason or "; ".join(item.warnings) or "it has no rules for this pod"
    return Readiness(False, Reason.NOT_PROGRAMMED, f"Service {item.ref}: {why}")


def is_dropping(item: Item) -> bool:
    """Whether the traffic that the Service would rewrite is dropped here, and the rules for that are in."""
    return item.status is Status.ELSEWHERE and item.drops and not item.changes
