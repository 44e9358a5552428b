"""What diff, dry runs, list and show tell of VIPs that are put on interfaces by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvctl.lab.topology import STANDARD, standard
from kvctl.model.net import Family
from tests.conftest import MakeLab
from tests.kernel.test_commands import FLAGS, pod, service
from tests.kernel.test_with_vip import NAMED, Node

V4 = STANDARD[Family.IPV4]


@pytest.fixture
def node(make_lab: MakeLab, tmp_path: Path) -> Node:
    return Node(make_lab(standard(backend="nft", vip_here=False)), tmp_path)


def told(node: Node, *words: str) -> dict[str, Any]:
    """The JSON of a command that compares with the manifest."""
    done = node.lab.kvctl(
        "egress", *words, "-o", "json", "-f", str(node.source), "--node", "worker", *FLAGS, env={}
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_diff_shows_addresses_rules_and_routes_until_they_are_there(node: Node) -> None:
    source = ("-f", str(node.source), "--node", "worker", *FLAGS)
    before = node.lab.kvctl("egress", "diff", "--with-vip", *source, env={})
    assert before.status == 3
    assert f"\n+ ip addr {V4.vip}/32 dev eth1, and announced there\n" in before.stdout
    assert "-j SNAT --to-source " + V4.vip in before.stdout
    assert "\n+ ip rule 7501: fwmark 0x4/0x3c lookup 7500\n" in before.stdout
    dry = node.apply("--with-vip", "--dry-run")
    assert (dry.status, dry.stdout) == (0, before.stdout)
    assert node.ours() == {}
    assert node.apply("--with-vip").status == 0
    after = node.lab.kvctl("egress", "diff", "--with-vip", *source, env={})
    assert after.status == 0, after.stdout
    assert node.lab.kvctl("egress", "diff", *source, env={}).status == 0


def test_an_address_that_is_missing_alone_is_a_difference(node: Node) -> None:
    assert node.apply("--with-vip").status == 0
    node.lab.worker.batch([f"addr del {V4.vip}/32 dev eth1"])
    found = told(node, "diff", "--with-vip")
    assert found["network"] == [{"op": "add", "what": f"ip addr {V4.vip}/32 dev eth1, and announced there"}]
    assert [item["changes"] for item in found["items"]] == [[], []]


def test_programs_are_told_of_addresses_and_routes_too(node: Node) -> None:
    network = told(node, "diff", "--with-vip")["network"]
    whats = [each["what"] for each in network]
    assert f"ip -6 addr {STANDARD[Family.IPV6].vip}/128 dev eth1, and announced there" in whats
    assert "ip rule 7501: fwmark 0x4/0x3c lookup 7500" in whats
    assert {each["op"] for each in network} == {"add"}


def test_a_vip_that_is_not_ones_to_place_is_told_and_not_shown_as_a_change(node: Node) -> None:
    node.write(service(annotations=NAMED, vips=(), loadBalancerClass="example.com/lb"), pod())
    done = node.lab.kvctl(
        *("egress", "diff", "--with-vip", "-f", str(node.source), "--node", "worker", *FLAGS), env={}
    )
    assert "is not placed: spec.loadBalancerClass" in done.stderr
    assert "+ ip addr" not in done.stdout


def test_list_and_show_tell_where_a_placed_vip_is_for_how_long_and_who_announced_it(node: Node) -> None:
    assert node.apply("--with-vip").status == 0
    header, row, _ = node.lab.kvctl("egress", "list", env={}).stdout.splitlines()
    assert (header.split()[-1], row.split()[-1]) == ("HOLDER", "here")
    text = node.lab.kvctl("egress", "show", env={}).stdout
    assert f"  VIP:                {V4.vip} on eth1, placed by kvctl for good\n" in text
    assert (
        "  announced:          once, when kvctl apply --with-vip placed it; the kernel answers for it\n"
        in text
    )
    assert "fence:" not in text
    shown = told(node, "show")["items"][0]
    assert shown["address"] == {
        "interface": "eth1",
        "placedByKvctl": True,
        "lifetimeSeconds": None,
        "announcedByAgent": False,
    }
    assert shown["route"] == {"mark": 4, "mask": 60, "table": 7500}
    assert (shown["holder"], shown["fence"], shown["lease"]) == ("worker", None, None)


def test_a_vip_that_an_admin_has_bound_is_told_as_that_and_one_that_is_nowhere_as_nowhere(node: Node) -> None:
    node.lab.worker.batch([f"addr add {V4.vip}/32 dev eth1"])
    assert node.apply().status == 0
    text = node.lab.kvctl("egress", "show", env={}).stdout
    assert f"  VIP:                {V4.vip} on eth1, placed by another program or by hand\n" in text
    assert "  announced:          by whoever has placed it\n" in text
    node.lab.worker.batch([f"addr del {V4.vip}/32 dev eth1"])
    done = node.lab.kvctl("egress", "list", env={})
    assert done.stdout.splitlines()[1].split()[-1] == "-"
    assert told(node, "list")["items"][0]["holder"] is None


def listed(node: Node, *words: str) -> dict[str, str]:
    """The first row of `list -o wide`, by its titles."""
    header, row, *_ = node.lab.kvctl("egress", "list", "-o", "wide", *words, env={}).stdout.splitlines()
    return dict(zip(header.split(), row.split(), strict=True))


def test_list_tells_by_whom_a_vip_is_announced_and_by_which_route_its_traffic_is_led_out(node: Node) -> None:
    assert node.apply("--with-vip").status == 0
    row = listed(node)
    assert (row["HOLDER"], row["ANNOUNCED"], row["ROUTE"]) == ("here", "once", "7500")
    item = told(node, "list")["items"][0]
    assert (item["announcedBy"], item["route"], item["routeFault"]) == (
        "once",
        {"mark": 4, "mask": 60, "table": 7500},
        None,
    )
    node.lab.worker.batch(["rule del priority 7501"])
    assert listed(node)["ROUTE"] == "7500-broken"
    assert told(node, "list")["items"][0]["routeFault"].startswith("no routing rule leads the mark 0x4/0x3c")


def test_list_tells_of_a_vip_that_others_announce_and_of_traffic_that_the_main_table_leads(
    node: Node,
) -> None:
    node.lab.worker.batch([f"addr add {V4.vip}/32 dev eth1"])
    addresses = {"kube-vip.io/loadbalancerIPs": V4.vip}
    node.write(service(annotations=addresses, vips=()), pod())
    assert node.apply().status == 0
    row = listed(node)
    assert (row["ANNOUNCED"], row["ROUTE"], row["LEASE"]) == ("other", "main", "-")
    item = told(node, "list")["items"][0]
    assert (item["announcedBy"], item["route"], item["routeFault"]) == ("other", None, None)
    node.lab.worker.batch([f"addr del {V4.vip}/32 dev eth1"])
    assert listed(node)["ANNOUNCED"] == "-"
