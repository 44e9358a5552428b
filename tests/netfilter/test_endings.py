"""Connections that end, as the kernel tells it."""

from __future__ import annotations

import time

import pytest

from kvctl.model.net import Family, parse_address
from kvctl.netfilter import conntrack
from kvctl.netfilter.endings import Ended, Endings
from tests.conftest import MakeNamespace
from tests.netfilter.test_conntrack import create, synthetic

POD = {Family.IPV4: "10.0.0.1", Family.IPV6: "fd00:10::1"}
VIP = {Family.IPV4: "192.0.2.245", Family.IPV6: "2001:db8::245"}


def test_what_ends_with_an_address_of_ours_is_heard_once(
    make_namespace: MakeNamespace, family: Family
) -> None:
    namespace = make_namespace()
    namespace.write_sysctls({"netfilter/nf_conntrack_acct": "1", "netfilter/nf_conntrack_events": "1"})
    pod, vip = parse_address(POD[family]), parse_address(VIP[family])
    with namespace.entered(), Endings() as endings:
        assert endings.take([vip]) == Ended()
        create(namespace, [synthetic(pod, port=4000, reply_to=vip), synthetic(pod, port=4001, reply_to=pod)])
        flows = conntrack.dump(family=family, sources=(), reply_destinations=[vip])
        both = [*flows, *conntrack.dump(family=family, sources=(), reply_destinations=[pod])]
        assert len(both) == 2
        assert conntrack.delete_all(both) == 2
        end = time.monotonic() + 30
        found = endings.take([vip])
        while not found.flows and time.monotonic() < end:
            found = endings.take([vip])
        assert found == Ended(tuple(flows))
        (ended,) = found.flows
        assert (ended.id, ended.raw_tuple) == (flows[0].id, flows[0].raw_tuple)
        assert ended.sent is not None
        assert endings.take([vip]) == Ended()


def test_more_than_the_socket_keeps_is_told_as_lost(
    make_namespace: MakeNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = make_namespace()
    with namespace.entered(), Endings() as endings:

        def full(*arguments: object, **named: object) -> None:
            from kvctl.errors import NetlinkError

            raise NetlinkError("no buffer space", errno=105)

        monkeypatch.setattr(endings._netlink, "hear", full)
        assert endings.take([parse_address(VIP[Family.IPV4])]) == Ended(lost=True)
