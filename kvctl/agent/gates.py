"""Readiness gates: the condition `kube-vip.io/egress-enabled` of this node's pods that wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from kvctl.agent.outbox import Limits, Outbox
from kvctl.agent.readiness import Readiness, judge_pod
from kvctl.agent.round import Round
from kvctl.cluster.conditions import PodCondition, patch_condition
from kvctl.cluster.events import Sender
from kvctl.model.objects import Gate, Pod
from kvctl.model.text import one_line

WHAT = "conditions"
# What was sent is seen in the Pod when its watch tells it; if it was lost on the way, some later round sends it again.
_AGAIN_SECONDS = 30.0
# Pods wait for this, so a permission that is granted late is found soon.
_LIMITS = Limits(per_second=20.0, at_once=100, forbidden_seconds=300.0)


class _Sent(NamedTuple):
    uid: str
    judged: Readiness
    at: float


class Gates:
    """Sets the condition where it is not what the last round says; `complain` and `count` as for `Outbox`."""

    def __init__(
        self,
        connection: Sender,
        *,
        complain: Callable[[str], None],
        count: Callable[[str, str], None] = lambda what, result: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._sent: dict[tuple[str, str], _Sent] = {}
        self._outbox: Outbox[PodCondition] = Outbox(
            lambda condition: patch_condition(connection, condition, at=now()),
            what=WHAT,
            complain=complain,
            count=count,
            limits=_LIMITS,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to send."""
        self._outbox.start()

    def stop(self, *, patience: float = 0.0) -> None:
        """End; what waits gets `patience` seconds."""
        self._outbox.stop(patience=patience)

    def round(self, done: Round) -> None:
        """Judge every pod that has the gate. What could not be looked at changes no condition."""
        if not done.complete or done.resolution is None:
            return
        gated = [pod for pod in done.objects.pods if pod.gate is not None]
        for pod in gated:
            self._judge(done, pod)
        here = {(pod.namespace, pod.name) for pod in gated}
        for key in self._sent.keys() - here:
            del self._sent[key]

    def _judge(self, done: Round, pod: Pod) -> None:
        judged = judge_pod(done, pod)
        judged = judged._replace(message=one_line(judged.message))
        key = (pod.namespace, pod.name)
        gate = pod.gate or Gate()
        # An absent condition is as good as False: one patch less for every pod that starts.
        begins = gate.status is None and not pod.addresses and not pod.host_network and not judged.ready
        if pod.deleting or pod.finished or begins or _says(gate, judged):
            self._sent.pop(key, None)
            return
        last, now = self._sent.get(key), self._clock()
        if (
            last is not None
            and (last.uid, last.judged) == (pod.uid, judged)
            and now - last.at < _AGAIN_SECONDS
        ):
            return
        condition = PodCondition(
            namespace=pod.namespace,
            pod=pod.name,
            uid=pod.uid,
            status=judged.ready,
            reason=judged.reason,
            message=judged.message,
            changed=gate.status != _status(judged),
        )
        if self._outbox.put(key, condition):
            self._sent[key] = _Sent(pod.uid, judged, now)


def _status(judged: Readiness) -> str:
    return "True" if judged.ready else "False"


def _says(gate: Gate, judged: Readiness) -> bool:
    return (gate.status, gate.reason, gate.message) == (_status(judged), judged.reason, judged.message)
