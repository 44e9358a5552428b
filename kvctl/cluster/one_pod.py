"""One Pod by its name, without a list of anything: what it takes to find its address."""

from __future__ import annotations

from kvctl.cluster import kinds, views
from kvctl.cluster.connection import open_connection
from kvctl.cluster.failures import RefusedError
from kvctl.cluster.fields import is_label, is_subdomain
from kvctl.cluster.leases import is_absence
from kvctl.errors import ClusterError
from kvctl.model.objects import Pod


def read_pod(
    *, namespace: str, name: str, kubeconfig: str | None, context: str | None, timeout: float = 10.0
) -> Pod | None:
    """The Pod as the API has it now; None: there is none.

    `timeout`: seconds. Raises ClusterError if no cluster is configured or it does not answer, InputError for a Pod that
    makes no sense.
    """
    if not (is_label(namespace) and is_subdomain(name)):
        return None  # the API would not have it, and some names are paths (`..`)
    path, _, plural = kinds.POD.path.rpartition("/")
    where = f"{path}/namespaces/{namespace}/{plural}/{name}"
    connection = open_connection(kubeconfig=kubeconfig, context=context)
    try:
        raw = connection.get(where, timeout=timeout)
    except RefusedError as error:
        if is_absence(error):
            return None
        raise
    finally:
        connection.close()
    _, kept = kinds.examine(dict(raw), kinds.POD)
    for problem in kept.errors:
        raise problem
    if not isinstance(kept.view, views.PodView):
        raise ClusterError(f"the answer to {where} is no Pod", hint="is this the address of an API server?")
    return kept.view.pod
