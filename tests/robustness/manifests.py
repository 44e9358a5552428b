"""Objects as `kubectl get -o json` prints them, for tests that run the command."""

from __future__ import annotations

import json

from kvctl.model.objects import Objects


def manifest(objects: Objects) -> str:
    """The Services and Pods of `objects` as one list."""
    services = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": each.ref.name,
                "namespace": each.ref.namespace,
                "annotations": dict(each.annotations),
                "creationTimestamp": "2023-11-14T22:13:20Z",
            },
            "spec": {
                "type": each.type,
                "externalTrafficPolicy": each.external_traffic_policy,
                "selector": dict(each.selector),
            },
            "status": {"loadBalancer": {"ingress": [{"ip": ingress.ip} for ingress in each.ingress]}},
        }
        for each in objects.services
    ]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": each.name, "namespace": each.namespace, "labels": dict(each.labels)},
            "spec": {},
            "status": {
                "podIP": str(each.addresses[0]),
                "podIPs": [{"ip": str(address)} for address in each.addresses],
            },
        }
        for each in objects.pods
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [*services, *pods]})
