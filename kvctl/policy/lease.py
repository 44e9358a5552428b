"""By which Lease a Service's VIP is held (serviceElection)."""

from __future__ import annotations

from collections.abc import Mapping

from kvctl.model.lease import KUBE_VIPS, LeaseKey
from kvctl.model.ref import ServiceRef
from kvctl.policy.annotations import Annotations, read_annotations


def lease_key(ref: ServiceRef, annotations: Annotations) -> LeaseKey:
    """What the annotation kube-vip.io/leaseName names, else kube-vip's name for it."""
    return LeaseKey(ref.namespace, annotations.lease or KUBE_VIPS + ref.name)


def lease_of(ref: ServiceRef, annotations: Mapping[str, str]) -> LeaseKey:
    """As `lease_key`, of annotations that were not read yet."""
    return lease_key(ref, read_annotations(annotations))
