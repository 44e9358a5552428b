"""The address of a pod that `trace` is told by its name: from files, the cluster, or the rules in the kernel."""

from __future__ import annotations

from collections.abc import Sequence

from kvctl.cli.output import note
from kvctl.cli.settings import told_backend
from kvctl.cli.source import load
from kvctl.errors import ClusterError, InputError, UsageError
from kvctl.model.net import Address
from kvctl.model.objects import Pod
from kvctl.model.policy import EgressPod
from kvctl.model.text import quote
from kvctl.reconcile.look import look


def address_of_pod(
    name: str, *, version: int, filenames: Sequence[str], kubeconfig: str | None, context: str | None
) -> Address:
    """The address of this IP version that the pod NAMESPACE/NAME has.

    Where neither a file nor a cluster tells, the kernel's rules may. Raises UsageError for what is no name,
    InputError where the pod is not there or has no such address, ClusterError.
    """
    namespace, slash, its_name = name.partition("/")
    if not (namespace and slash and its_name) or "/" in its_name:
        raise UsageError(f"--pod {quote(name)} is not a pod's name", hint="write it as NAMESPACE/NAME")
    if filenames:
        objects = load(filenames=filenames, kubeconfig=None, context=None)
        there = [each for each in objects.pods if (each.namespace, each.name) == (namespace, its_name)]
        return _address_of(_living(there, name, namespace), version=version)
    from kvctl.cluster.one_pod import read_pod

    try:
        found = read_pod(namespace=namespace, name=its_name, kubeconfig=kubeconfig, context=context)
    except ClusterError as error:
        address = _in_kernel(namespace, its_name, version=version)
        if address is not None:
            note(f"by the kernel's rules {name} is {address}; the cluster does not tell: {error.message}")
            return address
        hints = (error.hint, "give its address with --from, or manifests with -f FILE")
        error.hint = ", or ".join(filter(None, hints))
        raise
    return _address_of(_living([found] if found is not None else [], name, namespace), version=version)


def _in_kernel(namespace: str, name: str, *, version: int) -> Address | None:
    """The address that kvctl's rules give a pod; a pod is in the namespace of its Service."""
    for site in look(told=told_backend(None)).sites.values():
        for entry in (*site.installed.entries, *site.installed.drops.entries):
            pod = EgressPod.labelled(entry.address, label=entry.label)
            if (entry.rank.ref.namespace, pod.name, pod.address.version) == (namespace, name, version):
                return pod.address
    return None


def _living(there: Sequence[Pod], name: str, namespace: str) -> Pod:
    """The one of them that has not finished."""
    living = [each for each in there if not each.finished]
    if not living:
        why = "has finished" if there else "is not there"
        raise InputError(f"the pod {quote(name)} {why}", hint=f"see kubectl get pods -n {quote(namespace)}")
    return living[0]


def _address_of(pod: Pod, *, version: int) -> Address:
    """Its address of this IP version."""
    name = f"{pod.namespace}/{pod.name}"
    if pod.host_network:
        raise InputError(
            f"{name} is on the host network: it leaves as its node, and is never rewritten",
            hint="name a pod that has an address of its own",
        )
    address = next((each for each in pod.addresses if each.version == version), None)
    if address is None:
        raise InputError(
            f"{name} has no IPv{version} address",
            hint="give a --to of the other address family, or wait until it has one",
        )
    return address
