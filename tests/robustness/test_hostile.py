"""What tenants, local admins and odd hosts may do to kvctl, each found by attacking it once."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from kvctl.cluster.manifests import read_manifests
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection
from kvctl.model.host import Host, HostAddress
from kvctl.model.net import Family, parse_address
from tests.builders import endpoint, objects, pod, service
from tests.conftest import MakeLab, MakeNamespace
from tests.robustness.node import IN_LAB, Node

V4 = STANDARD[Family.IPV4]
GOOD = objects(service(vip=V4.vip, ports="udp:5060"), pod())


def test_connections_that_the_host_itself_masquerades_as_the_vip_are_never_dropped(
    make_lab: MakeLab, backend: str
) -> None:
    lab = make_lab(backend=backend)
    lab.worker.batch(
        [
            f"addr del {V4.vip}/32 dev eth1",
            f"addr del {V4.worker_eth1}/24 dev eth1",
            f"addr add {V4.vip}/24 dev eth1",
        ]
    )
    node = Node(lab.worker, backend=backend, settings=IN_LAB)
    with (
        Echo(lab.outside, ports=(5060, 9000)),
        Connection(lab["peer"], destination=V4.outside_eth1, port=5060) as bystander,
        Connection(lab.pod, destination=V4.outside_eth1, port=9000) as unlisted,
    ):
        first = [(seen.source, seen.source_port) for c in (bystander, unlisted) if (seen := c.ask())]
        assert [source for source, _ in first] == [V4.vip, V4.vip]
        for _ in range(3):
            applied = node.apply(GOOD)
            assert [outcome.dropped for outcome in applied.outcomes] == [[], []]
        after = [(seen.source, seen.source_port) for c in (bystander, unlisted) if (seen := c.ask())]
        assert after == first


def test_a_broken_annotation_gives_an_endpoint_no_address_of_the_host(make_namespace: MakeNamespace) -> None:
    node = Node(make_namespace())
    node.namespace.batch(["link add cni0 type bridge", "addr add 10.0.7.1/24 dev cni0", "link set cni0 up"])
    listed = [endpoint("te/evil", address) for address in ("10.0.0.9", "10.0.7.1")]
    node.apply(objects(service("te/evil", vip=V4.vip, selector={}), *listed))
    node.apply(objects(service("te/evil", vip=V4.vip, selector={}, ports="oops"), *listed))
    assert "-s 10.0.0.9/32" in node.save()
    assert "-s 10.0.7.1/32" not in node.save()


@pytest.mark.parametrize("comment", ["a\x0cb", "a\u2028b", "a\x85b", 'x"\ny'], ids=ascii)
def test_no_line_end_in_a_comment_hides_a_rule_that_takes_the_traffic(
    make_namespace: MakeNamespace, backend: str, comment: str
) -> None:
    node = Node(make_namespace(), backend=backend)
    node.apply(GOOD)
    steals = ("POSTROUTING", "-s", "10.0.0.1", "-m", "comment", "--comment", comment, "-j", "MASQUERADE")
    node.iptables("-I", *steals)
    assert node.statuses() == {"drifted"}
    node.apply(GOOD)
    assert node.statuses() == {"applied"}
    assert node.apply(GOOD).restores == 0
    node.iptables("-D", *steals)
    node.flush()
    assert "KVCTL" not in node.save()


def test_what_looks_like_save_text_in_a_comment_is_a_comment(
    make_namespace: MakeNamespace, backend: str
) -> None:
    node = Node(make_namespace(), backend=backend)
    comment = "x\nCOMMIT\n*nat\n:KVCTL-EGRESS - [0:0]"
    node.iptables("-A", "POSTROUTING", "-m", "comment", "--comment", comment, "-j", "MASQUERADE")
    node.apply(GOOD)
    assert node.apply(GOOD).restores == 0
    assert node.save().count("-j KVCTL-EGRESS") == 1
    node.flush()
    assert "\n:KVCTL-SVC" not in node.save()


def test_a_jump_to_nowhere_does_not_stop_the_others(make_namespace: MakeNamespace, backend: str) -> None:
    node = Node(make_namespace(), backend=backend)
    node.apply(GOOD)
    right = node.save()
    forged = '-m comment --comment "kvctl:aaaaaaaaaaaaaaaa'
    node.restore(
        f'*nat\n-A KVCTL-EGRESS -s 10.0.0.7/32 {forged} 30 x/y z" -j RETURN\n'
        f'-A KVCTL-EGRESS -m conntrack --ctorigdst 0.0.0.0/0 {forged} exclude node" -j RETURN\nCOMMIT\n'
    )
    assert node.statuses() == {"drifted"}
    node.apply(GOOD, "sip/sip-client")
    assert node.save() == right
    node.flush()
    assert "KVCTL" not in node.save()


def test_many_chains_that_lead_to_one_another_are_judged_once_each(make_namespace: MakeNamespace) -> None:
    node = Node(make_namespace(), backend="legacy")
    chains = [f"MAZE-{number}" for number in range(26)]
    lines = [f":{chain} - [0:0]" for chain in chains]
    lines += [f"-A {a} -j {b}" for a, b in pairwise(chains) for _ in range(2)]
    node.restore("\n".join(["*nat", *lines, "-A POSTROUTING -j MAZE-0", "COMMIT", ""]))
    node.apply(GOOD)
    assert node.statuses() == {"applied"}


def test_nothing_is_pruned_while_an_object_cannot_be_told_by_name(
    make_namespace: MakeNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: 1234}\n")
    with open(os.devnull, "rb") as nothing:
        read = read_manifests([str(path)], stdin=nothing)
    assert read.unidentified
    node = Node(make_namespace())
    node.apply(GOOD)
    node.apply(read, prune=True)
    assert [(str(item.ref), item.status) for item in node.items()] == [("sip/sip-client", "applied")]
    node.apply(read._replace(unidentified=False), prune=True)
    assert node.items() == []


def test_a_closed_standard_input_is_no_fault_where_none_is_read(tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_text("[]")
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", sys.executable, "-m", "kvctl", "egress", "compute", "-f", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "Note: there is no Service in the source\n")


def test_a_broadcast_ends_at_this_host() -> None:
    host = Host(addresses=(HostAddress(parse_address("172.16.0.2"), 24, "eth0"),), routes=())
    for address in ("255.255.255.255", "172.16.0.255", "172.16.0.2", "127.0.0.9"):
        assert host.is_local(parse_address(address))
    assert not host.is_local(parse_address("172.16.1.255"))


def held(address: str, length: int, *, secondary: bool = False, deprecated: bool = False) -> HostAddress:
    return HostAddress(parse_address(address), length, "eth1", secondary=secondary, deprecated=deprecated)


@pytest.mark.parametrize(
    ("addresses", "may"),
    [
        ([held("192.168.0.240", 24), held("192.168.0.245", 32)], False),
        ([held("192.168.0.245", 32)], True),
        ([held("192.168.0.240", 24), held("192.168.0.245", 24, secondary=True)], False),
        ([held("172.16.0.2", 24), held("192.168.0.245", 24)], True),
        ([held("2001:db8::245", 128, deprecated=True)], False),
        ([held("2001:db8::245", 128)], True),
    ],
)
def test_which_addresses_the_host_itself_may_choose_as_a_source(
    addresses: list[HostAddress], may: bool
) -> None:
    host = Host(addresses=tuple(addresses), routes=())
    assert host.may_masquerade_as(addresses[-1].address) is may
