"""An agent's memory of what was judged never shows: each resolution is that of one who has none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvctl.model.host import Host, HostAddress
from kvctl.model.net import parse_address
from kvctl.model.objects import Node, Objects, Service
from kvctl.policy.judge import judge as whole
from kvctl.policy.pods import is_idle
from kvctl.policy.resolution import Resolution
from kvctl.policy.resolve import Resolver, resolve
from kvctl.policy.verdict import Skipped, Wanted
from tests import builders
from tests.builders import endpoint, node, objects, pod, service

EXAMPLES = settings(max_examples=3000 if os.environ.get("KVCTL_LONG") else 100, deadline=None)
SETTINGS = builders.settings(node="worker")._replace(pod_cidrs=builders.networks("10.0.0.0/16"))
HOST = Host(addresses=(HostAddress(parse_address("192.168.0.245"), 32, "eth0"),), routes=())
# Each is one object for the whole run, so that what is the same is the very same.
THINGS = (
    service(),
    service(ports="udp:5060,tcp:0"),
    service(vip="192.168.0.7"),
    service("sip/b", selector={"app": "sip-client"}),
    service("sip/b", selector={}),
    service("far/c", vip="192.168.0.7", policy="Cluster"),
    service(
        "sip/d",
        vip="192.168.0.8",
        selector={"app": "sip-client"},
        ports="tcp:80",
        annotations={"kvctl.io/without-vip": "drop"},
    ),
    service(
        "sip/d",
        vip="192.168.0.8",
        selector={"app": "sip-client"},
        annotations={"kvctl.io/without-vip": "drop"},
    ),
    pod(),
    pod("sip/sip-client-1", "10.0.0.2"),
    pod("sip/sip-client-1", "10.0.0.2", finished=True),
    pod("sip/sip-client-2", "10.0.0.3", host_network=True),
    pod("far/other-0", "10.0.0.2", created=1_800_000_000),
    pod("sip/sip-client-3", "10.1.0.3"),
    pod("sip/sip-client-4", "10.0.0.4", node="elsewhere"),
    endpoint("sip/b", "10.0.0.1"),
    endpoint("sip/b", "10.0.0.9"),
    node("worker", "192.168.0.240"),
    node("elsewhere", "192.168.0.241"),
)


def picture(chosen: frozenset[int], *, from_api: bool) -> Objects:
    """The objects of these numbers; of several with one name the first."""
    found: dict[object, builders.Thing] = {}
    for number in sorted(chosen):
        thing = THINGS[number]
        name = getattr(thing, "ref", None) or (thing.name if isinstance(thing, Node) else number)
        found.setdefault((type(thing), name), thing)
    return objects(*found.values(), from_api=from_api)


def said(resolution: Resolution) -> object:
    """What a resolution says."""
    return resolution.wanted, resolution.skipped, resolution.claims, resolution.present


@EXAMPLES
@given(
    history=st.lists(st.frozensets(st.integers(0, len(THINGS) - 1), min_size=1), min_size=2, max_size=8),
    from_api=st.booleans(),
)
def test_each_resolution_is_that_of_one_without_memory(history: list[frozenset[int]], from_api: bool) -> None:
    resolver, here = Resolver(SETTINGS), Resolver(SETTINGS, here_only=True)
    for chosen in history:
        now = picture(chosen, from_api=from_api)
        whole_one = resolve(now, SETTINGS, host=HOST)
        assert said(resolver.resolve(now, host=HOST)) == said(whole_one)
        part = here.resolve(now, host=HOST)
        assert part.wanted == whole_one.wanted
        assert part.skipped == tuple(skip for skip in whole_one.skipped if skip.ref not in part.idle)
        for ref in whole_one.present:
            assert part.skips(ref) == whole_one.skips(ref)
            assert part.asks(ref) == whole_one.asks(ref)
            assert ref not in part.idle or is_idle(part.services[ref], part.index)


def test_what_is_as_it_was_is_not_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def judge(service: Service, *more: Any) -> Iterable[Wanted | Skipped]:
        judged.append(str(service.ref))
        return whole(service, *more)

    monkeypatch.setattr("kvctl.policy.resolve.judge", judge)
    resolver = Resolver(SETTINGS)
    podless = service("sip/podless", selector={"app": "nobody"}, vip="192.168.0.7")
    done = pod("sip/job-0", "10.0.0.9", app="nobody", finished=True)
    before = objects(service(), podless, pod(), done, from_api=True)
    resolver.resolve(before, host=HOST)
    assert sorted(judged) == ["sip/podless", "sip/sip-client"]
    judged.clear()
    resolver.resolve(before._replace(), host=HOST)
    assert judged == []
    resolver.resolve(before._replace(pods=before.pods[:1]), host=HOST)
    assert judged == ["sip/podless"]
