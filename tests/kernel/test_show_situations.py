"""Nodes that are broken in one way each: the first line of `show` names the cause."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kvctl.cli.main import kvctl
from kvctl.model.net import Family, parse_address
from kvctl.policy import layout
from kvctl.reconcile.drift import Drift
from kvctl.reconcile.look import look
from tests.builders import objects, pod, ref, service
from tests.conftest import MakeNamespace
from tests.doctor.host import POD, TOLD, VIP, prepare
from tests.netfilter.test_conntrack import create, synthetic
from tests.robustness.node import Node

CHAIN = layout.service_chain(ref("sip/sip-client"))
BEHIND = "KVCTL-TO-0.0.0.0-0"
"""The chain behind the gates of the few pods."""
MENDS = "; kvctl egress apply -f FILE mends it"
NAME = "sip/sip-client ipv4: "
WANTED = objects(service(vip=VIP, ports="udp:5060,tcp:7000"), pod("sip/sip-client-0", POD))
RANGES = ("--pod-cidr", "10.244.0.0/16", "--service-cidr", "10.96.0.0/12", "--node", "worker")
PORTS = "kube-vip.io/egress-destination-ports"
ASKED_PORTS = "udp:5060,tcp:7000"
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def node(make_namespace: MakeNamespace) -> Node:
    """A node that has the rules of that Service and works."""
    namespace = make_namespace()
    prepare(namespace)
    node = Node(namespace, settings=TOLD)
    node.apply(WANTED)
    return node


def show(node: Node, *words: str) -> Result:
    """`kvctl egress show WORDS`."""
    with node.namespace.entered():
        return CliRunner().invoke(kvctl, ["egress", "show", *words], catch_exceptions=False)


def said(node: Node, *words: str) -> str:
    """The first line."""
    done = show(node, *words)
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[0]


def told(node: Node, *words: str) -> Json:
    """What programs are told of the Service."""
    items: list[Json] = json.loads(show(node, *words, "-o", "json").stdout)["items"]
    return next(item for item in items if item["service"] == "sip-client")


def flow(node: Node, source: str, *, reply_to: str, port: int = 4000, reply_port: int | None = None) -> None:
    """A connection to port 5060 of somebody outside, as conntrack has it."""
    payload = synthetic(
        parse_address(source), port=port, reply_to=parse_address(reply_to), reply_port=reply_port
    )
    create(node.namespace, [payload])


def rule(node: Node, at: int) -> str:
    """A rule of the Service's chain."""
    return node.iptables("-S", CHAIN).splitlines()[at].removeprefix(f"-A {CHAIN} ")


def masquerade_above(node: Node) -> None:
    node.iptables("-I", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE")


def kube_vip_above(node: Node) -> None:
    its = ("-m", "comment", "--comment", "a3ViZS12aXAK=kube-vip-sip")
    node.iptables("-I", "POSTROUTING", "-s", POD, *its, "-j", "SNAT", "--to-source", "192.0.2.9")


def jump_gone(node: Node) -> None:
    node.iptables("-F", "POSTROUTING")


def chain_emptied(node: Node) -> None:
    node.iptables("-F", CHAIN)


def dispatch_emptied(node: Node) -> None:
    node.iptables("-F", "KVCTL-EGRESS")


def rule_inserted(node: Node) -> None:
    node.iptables("-I", CHAIN, "-p", "tcp", "-j", "RETURN")


def rule_removed(node: Node) -> None:
    node.iptables("-D", CHAIN, "1")


def rule_changed(node: Node) -> None:
    second = rule(node, 2)
    node.restore(f"*nat\n-R {CHAIN} 2 {second.replace(VIP, '192.0.2.99')}\nCOMMIT\n")


def rule_moved(node: Node) -> None:
    first = rule(node, 1)
    node.restore(f"*nat\n-D {CHAIN} 1\n-A {CHAIN} {first}\nCOMMIT\n")


def vip_gone(node: Node) -> None:
    node.namespace.batch([f"addr del {VIP}/32 dev eth1"])


def vip_on_loopback(node: Node) -> None:
    node.namespace.batch([f"addr del {VIP}/32 dev eth1", f"addr add {VIP}/32 dev lo"])


def interface_down(node: Node) -> None:
    node.namespace.batch(["link set eth1 down"])


def heartbeat_late(node: Node) -> None:
    replace(node, settings=TOLD._replace(elects=True, fence_seconds=10)).apply(WANTED)


def connection_from_before(node: Node) -> None:
    flow(node, POD, reply_to="192.0.2.10")


def ports_nearly_gone(node: Node) -> None:
    pods = [(parse_address(POD), port) for port in range(1, 410)]
    vip = parse_address(VIP)
    create(node.namespace, [synthetic(pod, port=port, reply_to=vip) for pod, port in pods])


KERNEL = [
    (
        masquerade_above,
        (
            "drifted: another program's rule comes before kvctl's jump in POSTROUTING of nat: "
            f"-s 10.0.0.0/8 -j MASQUERADE{MENDS}"
        ),
    ),
    (
        kube_vip_above,
        (
            "drifted: kube-vip's rule comes before kvctl's jump in POSTROUTING of nat: "
            f"-s {POD}/32 -j SNAT --to-source 192.0.2.9{MENDS}"
        ),
    ),
    (
        jump_gone,
        f"drifted: the jump in POSTROUTING of nat is missing: no packet comes to kvctl's rules{MENDS}",
    ),
    (
        chain_emptied,
        f"drifted: {CHAIN} is empty, somebody has flushed it: its pods' traffic is not rewritten{MENDS}",
    ),
    (
        dispatch_emptied,
        f"drifted: KVCTL-EGRESS is empty, somebody has flushed it: it leads no pod to its Service{MENDS}",
    ),
    (
        rule_inserted,
        f"drifted: 1 rule that is not wanted: {CHAIN} has, and should not have, `-p tcp -j RETURN`{MENDS}",
    ),
    (
        rule_removed,
        (
            f"drifted: the rules of {CHAIN} are not those that were written: by their tags, some have been removed or "
            "changed; -f or --cluster shows which were asked for; kvctl egress apply -f FILE mends it"
        ),
    ),
    (
        rule_changed,
        (
            f"drifted: 2 of 5 rules are not as wanted: {CHAIN} lacks "
            f"`-p udp -m udp --dport 5060 -j SNAT --to-source {VIP}`, and 1 more{MENDS}"
        ),
    ),
    (
        vip_gone,
        (
            f"applied: the VIP {VIP} is on no interface of this node (put it there with apply --with-vip, or use "
            "--assume-vip if a load balancer answers for it here without binding it): replies will not come back here; "
            "kvctl egress apply without either would end the rewriting"
        ),
    ),
    (
        interface_down,
        f"applied: the interface eth1 is down: answers to {VIP} do not come by it",
    ),
    (
        heartbeat_late,
        (
            "applied: no heartbeat has come, and it counts for 10 s: its pods' traffic leaves without the VIP "
            "or not at all until the agent renews"
        ),
    ),
    (
        connection_from_before,
        (
            "applied: 1 connection has another source than the rules give: it began before these rules, or under "
            "another rule that has gone; kvctl egress apply -f FILE drops such, and it begins anew"
        ),
    ),
    (
        ports_nearly_gone,
        (
            f"applied: the VIP {VIP} is running out of source ports: 409 of 511 ports below 512 to udp "
            "198.51.100.7:5060 are in use; new connections there fail when none is left: spread them over more "
            "addresses or ports of the destination, or over more VIPs"
        ),
    ),
]
"""What is broken, and the first line of `show` without a source, after the Service's name."""


@pytest.mark.parametrize(("broken", "sentence"), KERNEL, ids=[each[0].__name__ for each in KERNEL])
def test_the_kernel_alone_tells(node: Node, broken: Callable[[Node], None], sentence: str) -> None:
    assert said(node) == NAME + "applied"
    broken(node)
    assert said(node) == NAME + sentence
    assert told(node)["problems"][0] == sentence.partition(": ")[2]


def listed(node: Node, *words: str) -> Result:
    """`kvctl egress list WORDS`."""
    with node.namespace.entered():
        return CliRunner().invoke(kvctl, ["egress", "list", *words], catch_exceptions=False)


@pytest.mark.parametrize(
    "broken", [chain_emptied, dispatch_emptied, jump_gone, masquerade_above, rule_changed, rule_inserted]
)
def test_list_tells_the_same_cause(node: Node, broken: Callable[[Node], None]) -> None:
    broken(node)
    status, _, cause = said(node).removeprefix(NAME).partition(": ")
    assert f"Note: sip/sip-client (ipv4) {status}: {cause}\n" == listed(node).stderr


_LOADED = """
import runpy, sys
sys.argv[1:] = ["egress", "list"]
try:
    runpy.run_module("kvctl", run_name="__main__")
except SystemExit:
    print({"kvctl.reconcile.drift", "kvctl.cli.again", "kvctl.cli.ways_out"} & set(sys.modules))
"""


def test_where_nothing_has_drifted_list_looks_no_further(node: Node) -> None:
    assert node.run(sys.executable, "-c", _LOADED).splitlines()[-1] == "set()"
    jump_gone(node)
    assert "drift" in node.run(sys.executable, "-c", _LOADED).splitlines()[-1]


def test_of_rules_that_are_gone_nothing_is_said_to_be_as_wanted(node: Node, tmp_path: Path) -> None:
    nobodys = manifest(tmp_path / "a.json", asks("sip/other", vip="198.51.100.246", selector="nobody"))
    chain_emptied(node)
    text = show(node).stdout
    assert "  2 rules, others are missing: -f or --cluster shows which (" in text
    assert "  ports:              -\n" in text
    assert "  ports:              all traffic\n" not in show(node, *nobodys).stdout
    assert listed(node).stdout.splitlines()[1].split() == [
        *("sip/sip-client", "ipv4", "-", "1", "-", "drifted", "-")
    ]
    node.apply(WANTED)
    dispatch_emptied(node)
    assert [(row["chain"], row["standing"]) for row in told(node)["rules"]] == [
        ("POSTROUTING", "there"),
        ("KVCTL-EGRESS", "missing"),
        (BEHIND, "there"),
        *[(CHAIN, "there")] * 2,
    ]


def test_a_flushed_table_is_told_as_that_where_the_source_says_what_was_in_it(
    node: Node, tmp_path: Path
) -> None:
    node.iptables("-F")
    source = manifest(tmp_path / "a.json", asks())
    cause = f"somebody has flushed the nat table: KVCTL-EGRESS is empty, and the jump to it is missing{MENDS}"
    assert said(node, *source) == f"{NAME}missing: {cause}"
    assert f"Note: sip/sip-client (ipv4) missing: {cause}" in listed(node, *source).stderr
    node.apply(WANTED)
    dispatch_emptied(node)
    jump_gone(node)
    assert said(node, *source) == f"{NAME}drifted: {cause}"


def legacy_masquerade(node: Node) -> None:
    node.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE")


def test_where_the_other_back_end_may_win_that_comes_first_and_nobody_is_sent_in_a_circle(node: Node) -> None:
    legacy_masquerade(node)
    rival = (
        "another program's rule in POSTROUTING of the legacy back end may take these pods' traffic first: "
        "-s 10.0.0.0/8 -j MASQUERADE; remove it, or choose egress_withnftables=false"
    )
    assert told(node)["problems"] == [rival]
    connection_from_before(node)
    assert told(node)["problems"] == [
        rival,
        (
            "1 connection has another source than the rules give: it began before these rules, or another program's "
            f"rule takes it: kvctl egress trace --from {POD} --to 198.51.100.7:5060 --proto udp tells"
        ),
    ]
    assert "(wrong source)" in show(node).stdout


@pytest.mark.parametrize(("priority", "is_rival"), [(100, True), (101, False)])
def test_beside_the_legacy_back_end_a_native_chain_of_its_priority_is_a_rival(
    node: Node, priority: int, is_rival: bool
) -> None:
    node.flush()
    node = replace(node, backend="legacy")
    node.apply(WANTED)
    chain = f"type nat hook postrouting priority {priority};"
    node.run("nft", f"add table ip x; add chain ip x p {{ {chain} }}; add rule ip x p masquerade")
    rival = (
        "nft chain p of table ip x takes these pods' traffic before iptables' rules are asked, if it was registered "
        "later than they: which was, cannot be read of the legacy back end"
    )
    assert told(node, "--no-nftables")["problems"] == ([rival] if is_rival else [])


@pytest.mark.parametrize(
    "words",
    [
        ("-s", "192.0.2.0/24", "-j", "MASQUERADE"),
        ("-d", "10.0.0.0/8", "-j", "RETURN"),
        ("-j", "LOG"),
    ],
)
def test_what_translates_nothing_of_these_pods_in_the_other_back_end_is_no_rival(
    node: Node, words: tuple[str, ...]
) -> None:
    node.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", *words)
    assert said(node) == NAME + "applied"


def test_where_the_vip_is_not_here_apply_is_advised_with_it_alone(node: Node) -> None:
    vip_gone(node)
    connection_from_before(node)
    problems = told(node)["problems"]
    assert problems[1].endswith("; kvctl egress apply --with-vip -f FILE drops such, and it begins anew")
    assert "; kvctl egress apply without either would end the rewriting" in listed(node).stderr
    rule_inserted(node)
    assert said(node).endswith("; kvctl egress apply --with-vip -f FILE mends it")
    assert "; kvctl egress apply --with-vip -f FILE mends it" in listed(node).stderr


def test_the_command_that_mends_repeats_the_source(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, path, *ranges = manifest(tmp_path / "a b.json", asks())
    jump_gone(node)
    assert said(node, "-f", Path(path).name, *ranges).endswith("; kvctl egress apply -f 'a b.json' mends it")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (tmp_path / "config").write_text("{}")
    assert said(node).endswith("; kvctl egress apply mends it")


def test_a_service_of_that_name_in_another_namespace_is_suggested(node: Node) -> None:
    assert show(node, "sip-client").stderr == (
        "Error: default/sip-client has no egress rules on this node\nHint: did you mean sip/sip-client?\n"
    )
    assert show(node, "nobody").stderr.endswith("Hint: see: kvctl egress list\n")


def applied(node: Node, *source: str) -> Result:
    """`kvctl egress apply`."""
    with node.namespace.entered():
        return CliRunner().invoke(kvctl, ["egress", "apply", *source], catch_exceptions=False)


def test_a_pod_that_another_service_takes_is_told_and_so_are_rules_that_no_pod_is_led_to(
    node: Node, tmp_path: Path
) -> None:
    other = asks("web/shop", selector="shop")
    pods = manifest(tmp_path / "a.json", other, labels={"app": "shop"})
    text = (tmp_path / "a.json").read_text().replace('"namespace": "sip"', '"namespace": "web"')
    (tmp_path / "a.json").write_text(text)
    takes = f"Note: {POD} goes over from sip/sip-client to web/shop\n"
    assert takes in applied(node, *pods, "--dry-run").stderr
    done = applied(node, *pods)
    assert takes in done.stderr
    idle = "no pod is led to its rules, so they rewrite nothing: its pods have gone, or are another Service's by now"
    assert f"Warning: sip/sip-client (ipv4): {idle}\n" in done.stderr
    assert takes not in applied(node, *pods).stderr
    assert f"Warning: sip/sip-client (ipv4): {idle}\n" in listed(node).stderr
    assert f"{NAME}applied: {idle}" in show(node).stdout.splitlines()


def test_an_interface_that_this_host_does_not_have_is_named(node: Node, tmp_path: Path) -> None:
    its = asks()
    its["metadata"]["annotations"]["kube-vip.io/serviceInterface"] = "eth9"
    source = manifest(tmp_path / "a.json", its)
    assert listed(node).stderr == ""
    applied(node, *source)
    fault = (
        f"this host has no interface eth9, by which {VIP} is to leave: the routing table 7500 leads nowhere"
    )
    assert f"Warning: sip/sip-client (ipv4): {fault}" in listed(node).stderr
    assert said(node).startswith(f"{NAME}applied: {fault}")
    asked = f"nothing leaves with {VIP}: this host has no interface eth9 (kube-vip.io/serviceInterface)"
    assert said(node, *source).startswith(f"{NAME}applied: {asked}")
    told_by_list = listed(node, *source).stderr
    assert asked in told_by_list
    assert "leads nowhere" not in told_by_list


def test_where_nobody_elects_no_holder_is_missed(node: Node, tmp_path: Path) -> None:
    source = manifest(tmp_path / "a.json", asks())
    assert f"  Service says:       {VIP} in its status\n" in show(node, *source).stdout


def manifest(
    path: Path, *services: Json, pods: tuple[str, ...] = (POD,), labels: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The options that name it."""
    its = {"app": "sip-client"} if labels is None else dict(labels)
    things = [
        *services,
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"sip-client-{at}", "namespace": "sip", "labels": its},
                "spec": {"nodeName": "worker"},
                "status": {"podIP": address, "podIPs": [{"ip": address}]},
            }
            for at, address in enumerate(pods)
        ),
    ]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))
    return ("-f", str(path), *RANGES)


def asks(
    name: str = "sip/sip-client",
    *,
    vip: str = VIP,
    ports: str = "udp:5060,tcp:7000",
    policy: str = "Local",
    selector: str = "sip-client",
    **meta: str,
) -> Json:
    """A Service as a manifest has it."""
    namespace, _, its = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": its,
            "namespace": namespace,
            "annotations": {"kube-vip.io/egress": "true", PORTS: ports},
            "creationTimestamp": "2023-11-14T22:13:20Z",
            **meta,
        },
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": {"app": selector}},
        "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
    }


LATER = "2026-01-01T00:00:00Z"
CLAIM = {
    **asks("aaa/other"),
    "metadata": {**asks("aaa/other")["metadata"], "creationTimestamp": "2020-01-01T00:00:00Z"},
}
ASKED = [
    (
        "the policy Cluster",
        (asks(policy="Cluster"),),
        "skipped: spec.externalTrafficPolicy is Cluster, not Local",
    ),
    (
        "a port more than before",
        (asks(ports="udp:5060,tcp:7000,tcp:7001"),),
        (
            f"drifted: 3 of 5 rules are not as wanted: {CHAIN} lacks "
            f"`-p tcp -m multiport --dports 7000,7001 -j SNAT --to-source {VIP}`, and 2 more{MENDS}"
        ),
    ),
    ("a VIP that another has claimed", (CLAIM, asks(creationTimestamp=LATER)), "skipped: "),
    ("pods that another's rules take wholly", (asks(ports=""), asks("sip/other", ports="")), "skipped: "),
    ("no pod of its", (asks(selector="nobody"),), "skipped: "),
    ("nothing any more", (), "orphaned: not in the source; --prune removes it"),
    (
        "a VIP of another node",
        (asks(vip="198.51.100.246"),),
        "elsewhere: the VIP 198.51.100.246 is on no interface of this node (put it there",
    ),
    ("a value that is none", (asks(ports="5060"),), "applied: the last good rules are kept: "),
]


@pytest.mark.parametrize(
    ("services", "sentence"), [each[1:] for each in ASKED], ids=[each[0] for each in ASKED]
)
def test_with_a_source_what_it_asks_for_is_told(
    node: Node, tmp_path: Path, services: tuple[Json, ...], sentence: str
) -> None:
    source = manifest(tmp_path / "a.json", *services)
    assert said(node, "sip/sip-client", *source).startswith(NAME + sentence)


def test_traffic_that_the_service_does_not_list_is_told_where_nothing_is_wrong(node: Node) -> None:
    node.apply(objects(service(vip=VIP, ports="tcp:7000"), pod("sip/sip-client-0", POD)))
    flow(node, POD, reply_to="192.0.2.10")
    assert said(node) == (
        f"{NAME}applied: 1 connection leaves without the VIP: the Service asks for tcp:7000 alone, and it goes "
        "to udp:5060"
    )
    item = told(node)
    assert (item["status"], item["problems"], len(item["notes"])) == ("applied", [], 1)
    assert [each["leftAlone"] for each in item["flows"]] == [True]


def test_where_everything_is_flushed_the_first_message_says_so(node: Node) -> None:
    node.iptables("-F")
    done = show(node, "sip/sip-client")
    assert done.stdout == ""
    assert done.stderr.startswith(
        "Warning: kvctl's chains are here (nft, ipv4), but empty: somebody flushed the nat table; kvctl egress apply"
    )


def test_the_worst_comes_first_of_several_services(node: Node) -> None:
    both = objects(
        service(vip=VIP, ports="udp:5060"),
        pod("sip/sip-client-0", POD),
        service("web/shop", vip="198.51.100.246", ports="tcp:443"),
        pod("web/shop-0", "10.244.1.6"),
    )
    node.namespace.batch(["addr add 198.51.100.246/32 dev eth1"])
    node.apply(both)
    assert said(node) == NAME + "applied"
    node.namespace.batch(["addr del 198.51.100.246/32 dev eth1"])
    assert said(node).startswith("web/shop ipv4: applied: the VIP 198.51.100.246 is on no interface")
    node.iptables("-F", CHAIN)
    lines = [line for line in show(node).stdout.splitlines() if line.startswith(("sip/", "web/"))]
    assert [line.split()[0] for line in lines] == ["sip/sip-client", "web/shop"]


def test_every_rule_is_shown_in_order_as_there_missing_or_not_wanted(node: Node, tmp_path: Path) -> None:
    rule_inserted(node)
    rows = told(node, *manifest(tmp_path / "a.json", asks(ports="udp:5060,tcp:7001")))["rules"]
    assert [(row["chain"], row["standing"]) for row in rows] == [
        ("POSTROUTING", "there"),
        (BEHIND, "there"),
        (CHAIN, "not wanted"),
        (CHAIN, "not wanted"),
        (CHAIN, "missing"),
        (CHAIN, "comment"),
    ]
    assert [row["rule"].split(" -m comment")[0] for row in rows[2:5]] == [
        "-p tcp -j RETURN",
        "-p tcp -m tcp --dport 7000",
        "-p tcp -m tcp --dport 7001",
    ]
    # The host itself may have sent something (IGMP, say), which meets the jump and nothing behind it.
    assert isinstance(rows[0]["packets"], int)
    assert [row["packets"] for row in rows[1:]] == [0, 0, 0, None, 0]
    lines = show(node, *manifest(tmp_path / "a.json", asks(ports="udp:5060,tcp:7001"))).stdout.splitlines()
    at = lines.index(
        "  6 rules, 4 not as wanted (packets and bytes; in nat the first packet of each connection)"
    )
    assert (
        lines[at + 5]
        == f"    missing         -     - {CHAIN}  -p tcp -m tcp --dport 7001 -j SNAT --to-source {VIP}"
    )


def test_a_gate_that_is_missing_is_told_of_the_services_of_its_pod_and_of_no_other(node: Node) -> None:
    node.apply(
        objects(
            service(vip=VIP, ports="udp:5060"),
            service("sip/second", vip=VIP, ports="tcp:443", selector={"app": "sip-client"}),
            pod("sip/sip-client-0", POD),
            service("sip/third", vip=VIP, ports="tcp:80"),
            pod("sip/third-0", "10.244.1.6"),
        )
    )
    node.iptables("-D", "KVCTL-EGRESS", "1")
    lacks = f"KVCTL-EGRESS lacks `-s {POD}/32 -g {BEHIND}`{MENDS}"
    heads = [line for line in show(node).stdout.splitlines() if line.startswith("sip/")]
    assert heads == [
        f"sip/second ipv4: drifted: 1 of 4 rules is not as wanted: {lacks}",
        f"{NAME}drifted: 1 of 4 rules is not as wanted: {lacks}",
        "sip/third ipv4: applied",
    ]
    assert [(row["chain"], row["standing"]) for row in told(node)["rules"]] == [
        ("POSTROUTING", "there"),
        ("KVCTL-EGRESS", "missing"),
        (BEHIND, "there"),
        (CHAIN, "there"),
    ]
    assert {line.split()[0]: line.split()[-3] for line in listed(node).stdout.splitlines()[1:]} == {
        "sip/second": "drifted",
        "sip/sip-client": "drifted",
        "sip/third": "applied",
    }


@pytest.mark.parametrize("others", [8, 32])
def test_rules_that_only_move_because_of_others_are_shown_where_they_are(node: Node, others: int) -> None:
    """One pod more than a leaf holds, and than leaves that share what is behind their gates."""
    pods = [pod(f"sip/other-{n}", f"10.244.1.{n + 10}") for n in range(others - 1)]
    wanted = (service(vip=VIP, ports="udp:5060"), pod("sip/sip-client-0", POD))
    other = service("sip/other", vip=VIP, ports="tcp:80")
    node.apply(objects(*wanted, other, *pods))
    before = [(row["chain"], row["standing"]) for row in told(node)["rules"]]
    assert {standing for _, standing in before} == {"there"}
    more = pod("sip/other-1000", "10.244.1.200")
    compared = node.diff(objects(*wanted, other, *pods, more))
    assert {str(item.ref) for item in compared.items if item.changes} == {"sip/other"}
    with node.namespace.entered():
        found = look(told=True)
    drift = Drift.of(found.sites[Family.IPV4], compared, compared.plans[Family.IPV4])
    item = next(item for item in compared.items if item.service == "sip-client")
    assert [(row.chain, str(row.standing)) for row in drift.rows(item)] == before


def test_a_rule_in_the_wrong_place_is_told_as_that(node: Node, tmp_path: Path) -> None:
    rule_moved(node)
    source = manifest(tmp_path / "a.json", asks())
    assert [row["standing"] for row in told(node, *source)["rules"]].count("wrong place") == 1
    assert said(node, *source).startswith(
        f"{NAME}drifted: 1 of 4 rules is not as wanted: not in its place in {CHAIN} is `-p tcp -m tcp --dport 7000"
    )


def test_rules_that_nobody_wants_are_not_shown_as_wanted(node: Node, tmp_path: Path) -> None:
    rows = told(node, *manifest(tmp_path / "a.json"))["rules"]
    assert [row["standing"] for row in rows] == ["there", "not wanted", "not wanted", "not wanted"]


def test_rules_in_the_back_end_that_is_not_in_use_are_shown_as_not_wanted(node: Node) -> None:
    assert said(node, "--no-nftables").startswith(
        f"{NAME}orphaned: in the nft back end, while legacy is in use; apply moves it"
    )
    rows = told(node, "--no-nftables")["rules"]
    assert [(row["chain"], row["standing"]) for row in rows] == [
        ("POSTROUTING", "there"),
        (BEHIND, "not wanted"),
        (CHAIN, "not wanted"),
        (CHAIN, "not wanted"),
    ]


def test_connections_have_their_bytes_where_the_kernel_counts_them_and_the_reason_where_it_does_not(
    node: Node,
) -> None:
    node.namespace.write_sysctls({"netfilter/nf_conntrack_acct": "0"})
    flow(node, POD, reply_to=VIP)
    mend = "sysctl -w net.netfilter.nf_conntrack_acct=1"
    why = f"    packets and bytes: - (not counted before {mend}, and then of new connections)"
    assert show(node).stdout.splitlines().count(why) == 1
    assert [(each["sent"], each["received"]) for each in told(node)["flows"]] == [(None, None)]
    node.namespace.write_sysctls({"netfilter/nf_conntrack_acct": "1"})
    assert "(not counted: they are older than the counting)" in show(node).stdout
    flow(node, POD, reply_to=VIP, port=4001)
    counted = {"packets": 0, "bytes": 0}
    assert sorted(str(each["sent"]) for each in told(node)["flows"]) == sorted(("None", str(counted)))
    lines = show(node).stdout.splitlines()
    assert "  2 live connections (packets and bytes, both ways)" in lines
    assert f"        0     0 udp {POD}:4001 -> 198.51.100.7:5060 seen as {VIP}" in lines
    assert f"        -     - udp {POD}:4000 -> 198.51.100.7:5060 seen as {VIP}" in lines


def test_the_ports_of_a_vip_are_counted_over_all_services_that_share_it(node: Node) -> None:
    other = "10.244.1.6"
    node.apply(
        objects(
            service(vip=VIP, ports="udp:5060"),
            pod("sip/sip-client-0", POD),
            service("sip/other", vip=VIP, ports="tcp:443"),
            pod("sip/other-0", other),
        )
    )
    flow(node, POD, reply_to=VIP)
    flow(node, other, reply_to=VIP, reply_port=4001)
    flow(node, other, reply_to="192.0.2.10", port=4002)
    item = told(node)
    assert item["portUse"] == {
        "protocol": "udp",
        "destination": "198.51.100.7",
        "destinationPort": 5060,
        "used": 2,
        "of": 64512,
    }
    assert "ports in use:       2 of 64,512 ports to udp 198.51.100.7:5060, its busiest" in show(node).stdout


WAY = {"kube-vip.io/serviceInterface": "eth1"}
TOLD_ELSEWHERE = ": it leaves by the main table; kvctl egress apply -f FILE puts it right"


@pytest.fixture
def led(node: Node, tmp_path: Path) -> Node:
    """The same with a Service that names its interface, so that its traffic is led there by a mark."""
    its = asks()
    its["metadata"]["annotations"] |= WAY
    words = ["egress", "apply", *manifest(tmp_path / "led.json", its)]
    with node.namespace.entered():
        done = CliRunner().invoke(kvctl, words, catch_exceptions=False)
    assert "KVCTL-MRK" in node.run("iptables-nft-save", "-t", "mangle"), done.output
    assert said(node) == NAME + "applied"
    return node


def test_a_way_that_has_gone_is_told(led: Node) -> None:
    led.run("ip", "rule", "del", "priority", "7501")
    assert (
        said(led) == f"{NAME}applied: no routing rule leads the mark 0x4/0x3c to table 7500{TOLD_ELSEWHERE}"
    )


def test_a_strict_filter_on_the_way_back_is_told(led: Node) -> None:
    led.namespace.write_sysctls({"ipv4/conf/eth1/rp_filter": "1"})
    assert said(led) == (
        f"{NAME}applied: net/ipv4/conf/eth1/rp_filter counts as 1: replies that arrive at eth1 are dropped where the "
        "main table leads elsewhere (sysctl -w net/ipv4/conf/eth1/rp_filter=2)"
    )


def test_the_rules_of_marks_are_shown_in_their_own_table(led: Node) -> None:
    rows = [(row["table"], row["chain"].split("-")[:2]) for row in told(led)["rules"]]
    assert ("mangle", ["PREROUTING"]) in rows
    assert ("mangle", ["KVCTL", "MTO"]) in rows
    led.iptables("-F", "PREROUTING", table="mangle")
    assert said(led) == (
        f"{NAME}drifted: the jump in PREROUTING of mangle is missing: no packet comes to kvctl's rules{MENDS}"
    )
