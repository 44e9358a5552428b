"""Leases (coordination.k8s.io/v1) read and written one by one, each write only on what was read before.

A write is a merge patch with the version and the uid that were read: fields, labels and annotations of others stay as
they are, another's write in between is 409 Conflict, and a Lease that is gone stays gone. (A PUT would create it anew:
kubernetes pkg/registry/coordination/lease/strategy.go, AllowCreateOnUpdate.) The verbs are get, create and patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from kvctl.cluster.failures import RefusedError
from kvctl.cluster.fields import Field, Record, is_label, is_subdomain
from kvctl.errors import ClusterError
from kvctl.model.lease import IDENTITY_PREFIX, KUBE_VIPS, LeaseKey
from kvctl.model.text import quote

MOVE_TO = "kvctl.io/move-to"
"""The annotation that names the node to which a Lease is to go."""
_MADE_BY, _US = "app.kubernetes.io/managed-by", "kvctl"
MINE = f"{_MADE_BY}={_US}"
"""The label of what kvctl has made, and of what it may take though another program made it."""
_GROUP = "/apis/coordination.k8s.io/v1"
_A_NUMBER = "a whole number from 0 to 2147483647"
_LARGEST = 2**31 - 1


class Asker(Protocol):
    """What is needed of a connection."""

    def get(self, path: str, *, timeout: float, overall: float | None = None) -> Mapping[str, Any]:
        """The object at `path`; raises RefusedError for a status but 200, else ClusterError."""

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        content_type: str,
        timeout: float,
        overall: float | None = None,
    ) -> Mapping[str, Any]:
        """The answer; raises RefusedError for a status but 2xx, else ClusterError."""


class Lease(NamedTuple):
    """What counts of a Lease. Others, and tenants, write Leases too: nothing in it is more than their word."""

    key: LeaseKey
    holder: str = ""
    """Empty: nobody."""
    duration: int = 0
    """Seconds from the last renewal; 0: it says none."""
    transitions: int = 0
    acquired: str | None = None
    """As the API writes times; nothing is decided by it, nor by `renewed`: they are of somebody else's clock."""
    renewed: str | None = None
    version: str = ""
    uid: str = ""
    move_to: str | None = None
    """The node that the annotation kvctl.io/move-to names."""
    anothers: bool = False
    """It seems to be of a program that elects something else: a tenant may name any Lease of the namespace."""


class Leases:
    """The Leases of a cluster. All requests raise ClusterError; `timeout` bounds them, in seconds."""

    def __init__(self, connection: Asker) -> None:
        self._connection = connection

    def get(self, key: LeaseKey, *, timeout: float) -> Lease | None:
        """The Lease as it is now; None: there is none."""
        try:
            answer = self._connection.get(_path(key), timeout=timeout, overall=timeout)
        except RefusedError as error:
            if is_absence(error):
                return None
            raise
        return read_lease(answer, key)

    def create(self, lease: Lease, *, timeout: float) -> Lease:
        """Make it, as it is then; RefusedError with status 409: there is one by now."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": lease.key.name,
                "namespace": lease.key.namespace,
                "labels": {_MADE_BY: _US},
            },
            "spec": _spec(lease),
        }
        answer = self._connection.send(
            "POST",
            _path(lease.key).rpartition("/")[0],
            body,
            content_type="application/json",
            timeout=timeout,
            overall=timeout,
        )
        return read_lease(answer, lease.key)

    def update(self, lease: Lease, *, timeout: float) -> Lease:
        """Write all that a Lease holds, as it is then.

        RefusedError with status 409: it is not at `lease.version` any more, or is another of that name.
        """
        same = {"resourceVersion": lease.version, **({"uid": lease.uid} if lease.uid else {})}
        answer = self._connection.send(
            "PATCH",
            _path(lease.key),
            {"metadata": {**same, "annotations": {MOVE_TO: lease.move_to}}, "spec": _spec(lease)},
            content_type="application/merge-patch+json",
            timeout=timeout,
            overall=timeout,
        )
        return read_lease(answer, lease.key)


def is_absence(error: RefusedError) -> bool:
    """Whether the server says that the object is not there; a 404 of something in between says less."""
    return error.status == 404 and error.reason == "NotFound"


def micro_time(at: float) -> str:
    """Seconds since the epoch as metav1.MicroTime."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_lease(raw: Mapping[str, Any], key: LeaseKey) -> Lease:
    """A Lease as the API sends it. Raises ClusterError that names every field which is not what it should be.

    Absent and null are nobody, 0 and never.
    """
    record = Record()
    whole = Field(record, raw)
    meta, spec = whole.at("metadata"), whole.at("spec")
    version = meta.at("resourceVersion").text()
    if version is None:
        meta.at("resourceVersion").wrong("text")
    lease = Lease(
        key=key,
        holder=spec.at("holderIdentity").text() or "",
        duration=_number(spec.at("leaseDurationSeconds")),
        transitions=_number(spec.at("leaseTransitions")),
        acquired=spec.at("acquireTime").text(),
        renewed=spec.at("renewTime").text(),
        version=version or "",
        uid=meta.at("uid").text() or "",
        move_to=meta.at("annotations").text_map(prefixes=(MOVE_TO,)).get(MOVE_TO) or None,
    )
    labels = meta.at("labels").text_map(prefixes=(_MADE_BY,))
    ours = key.name.startswith(KUBE_VIPS) or lease.holder.startswith(IDENTITY_PREFIX)
    lease = lease._replace(anothers=not ours and labels.get(_MADE_BY) != _US)
    if (meta.at("namespace").text(), meta.at("name").text()) != key:
        meta.at("name").wrong(f"that of {key}")
    if problems := record.errors(f"Lease {key}"):
        raise ClusterError("; ".join(each.message for each in problems), hint=problems[0].hint)
    return lease


def _number(field: Field) -> int:
    value = field.value
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    field.wrong(_A_NUMBER)
    return 0


def _spec(lease: Lease) -> dict[str, Any]:
    return {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": lease.duration,
        "leaseTransitions": lease.transitions,
        "acquireTime": lease.acquired,
        "renewTime": lease.renewed,
    }


def _path(key: LeaseKey) -> str:
    """Raises ClusterError for a name that no Lease can have: tenants choose them."""
    if not (is_label(key.namespace) and is_subdomain(key.name)):
        raise ClusterError(
            f"no Lease can be called {quote(str(key))}",
            hint="use a-z, 0-9, '-' and '.' in kube-vip.io/leaseName",
        )
    return f"{_GROUP}/namespaces/{key.namespace}/leases/{key.name}"
