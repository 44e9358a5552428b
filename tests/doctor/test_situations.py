"""Hosts that are broken in one way each: the first line names it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvctl import proc
from kvctl.doctor import conntrack, extensions, lockfile
from kvctl.doctor.finding import Level, verdict
from kvctl.doctor.privileges import Privileges
from kvctl.lab.topology import BACKENDS
from kvctl.model.net import Family, parse_address
from kvctl.netfilter import binaries, fence
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.layout import fence_name
from kvctl.policy.resolve import resolve
from kvctl.reconcile.leading import lead
from kvctl.reconcile.look import look
from kvctl.reconcile.run import apply
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import node as a_node
from tests.builders import objects, pod, service, settings
from tests.doctor.host import POD, TOLD, VIP, VIP6, WANTED, elsewhere, look_at, of_level, said
from tests.robustness.foreign_rules import rules_of
from tests.robustness.node import Node

KUBE_VIP = (
    f"*nat\n-A POSTROUTING -s {POD}/32 -m comment --comment "
    '"a3ViZS12aXAK=kube-vip-sip" -j SNAT --to-source 198.51.100.9\nCOMMIT\n'
)


def test_of_a_host_that_works_nothing_is_said_but_that(node: Node) -> None:
    found = look_at(node)
    assert said(found) == "nothing found that keeps egress from working"
    assert {each.level for each in found.findings} == {Level.FINE}
    assert found.exit_status == 0
    assert found.backend == node.backend


def test_looking_changes_nothing(node: Node) -> None:
    before = node.saved(), _legacy_tables(node)
    look_at(node)
    assert (node.saved(), _legacy_tables(node)) == before


def _legacy_tables(node: Node) -> str:
    return node.run("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


class TestSettingsOfTheKernel:
    def test_ip_forward_off(self, bare: Node) -> None:
        bare.namespace.write_sysctls({"ipv4/ip_forward": "0"})
        found = look_at(bare)
        assert said(found) == "this host forwards no ipv4 packets: pods reach nothing outside of it"
        assert found.findings[0].mend == "sysctl -w net/ipv4/ip_forward=1"
        assert found.exit_status == 1

    def test_ipv6_forwarding_off_where_there_are_ipv6_pods(self, bare: Node) -> None:
        bare.namespace.write_sysctls({"ipv6/conf/all/forwarding": "0"})
        assert said(look_at(bare)) == "this host forwards no ipv6 packets: pods reach nothing outside of it"
        only_ipv4 = settings(pod_cidrs=("10.244.0.0/16",), service_cidrs=("10.96.0.0/12",))
        assert look_at(bare, told=only_ipv4).exit_status == 0

    def test_a_strict_reverse_path_filter_on_the_interface_of_the_vip(self, node: Node) -> None:
        node.namespace.write_sysctls({"ipv4/conf/eth1/rp_filter": "1"})
        found = look_at(node)
        assert said(found) == (
            "replies that arrive at eth1 are dropped where the main table leads elsewhere (rp_filter is 1)"
        )
        assert found.findings[0].mend == "sysctl -w net/ipv4/conf/eth1/rp_filter=2"

    def test_a_strict_reverse_path_filter_where_a_vip_may_come(self, bare: Node) -> None:
        bare.namespace.batch([f"addr del {VIP}/32 dev eth1"])
        bare.namespace.write_sysctls({"ipv4/conf/eth1/rp_filter": "1"})
        found = look_at(bare)
        assert said(found).endswith(
            "dropped where the main table leads elsewhere (rp_filter is 1): no Service can leave by it"
        )
        assert found.findings[0].level is Level.WARNING

    def test_a_strict_filter_on_the_way_out_does_no_harm(self, node: Node) -> None:
        node.namespace.write_sysctls({"ipv4/conf/eth0/rp_filter": "1"})
        assert of_level(look_at(node), Level.FAILURE, Level.WARNING) == []

    def test_arp_requests_that_name_the_vip(self, node: Node) -> None:
        node.namespace.write_sysctls({"ipv4/conf/eth1/arp_announce": "0"})
        found = look_at(node)
        assert "this host's ARP requests name the VIP as sender" in said(found)
        assert found.exit_status == 0

    def test_an_interface_that_forwards_nothing(self, node: Node) -> None:
        node.namespace.write_sysctls({"ipv4/conf/eth1/forwarding": "0"})
        assert (
            said(look_at(node))
            == "replies that arrive at eth1 are not forwarded to the pods (forwarding is 0)"
        )

    def test_a_bridge_of_more_pods_than_are_told(self, bare: Node) -> None:
        told = settings(pod_cidrs=("10.244.1.0/25",), service_cidrs=("10.96.0.0/12",))
        bare.namespace.batch(["link add br-lan type bridge", "addr add 172.30.0.1/24 dev br-lan"])
        messages = [each.message for each in of_level(look_at(bare, told=told), Level.FAILURE)]
        assert messages[0] == (
            "the pod CIDR 10.244.1.0/25 (--pod-cidr) is only a part of 10.244.1.0/24, the network of bridge cni0: "
            "what its pods send each other may be rewritten"
        )
        assert not any("br-lan" in each.message for each in look_at(bare).findings)


class TestTheOrder:
    def test_a_masquerade_above(self, node: Node) -> None:
        node.iptables("-I", "POSTROUTING", "-s", "10.244.0.0/16", "-j", "MASQUERADE")
        found = look_at(node)
        assert said(found) == (
            "another program's rule takes the pods' packets before kvctl's jump in POSTROUTING of nat (ipv4)"
        )
        assert found.findings[0].evidence == "-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE"

    def test_a_masquerade_below_does_no_harm(self, node: Node) -> None:
        node.iptables("-A", "POSTROUTING", "-s", "10.244.0.0/16", "-j", "MASQUERADE")
        assert look_at(node).exit_status == 0

    def test_the_jump_has_gone(self, node: Node) -> None:
        node.iptables("-F", "POSTROUTING")
        assert said(look_at(node)) == (
            "kvctl's jump in POSTROUTING of nat (ipv4) has gone: no packet comes to its rules"
        )

    def test_somebody_has_flushed_the_first_chain(self, node: Node) -> None:
        node.iptables("-F", "KVCTL-EGRESS")
        assert said(look_at(node)) == (
            "kvctl's chain KVCTL-EGRESS of nat (ipv4) is empty: somebody has flushed it, and no pod's packet comes to "
            "the rules of its Service"
        )

    def test_somebody_has_flushed_the_table(self, node: Node) -> None:
        node.iptables("-F")
        found = look_at(node)
        assert said(found) == "kvctl's chains of nat (ipv4) are empty: somebody has flushed the table"
        assert found.findings[0].evidence == "KVCTL-EGRESS has no rule, and no rule leads to it"
        assert not any("no rules of kvctl's" in each.message for each in found.findings)

    def test_a_native_chain_that_comes_before_iptables(self, node: Node) -> None:
        chain = "{ type nat hook postrouting priority 90; ip saddr 10.244.0.0/16 masquerade ; }"
        node.run("nft", f"table ip cni {{ chain out {chain} ; }}")
        found = look_at(node)
        assert said(found).startswith(
            "nft chain out of table ip cni (priority 90) translates these pods' traffic"
        )
        assert found.exit_status == 1

    def test_the_same_before_there_are_rules_of_ours(self, bare: Node) -> None:
        chain = "{ type nat hook postrouting priority 90; ip saddr 10.244.0.0/16 masquerade ; }"
        bare.run("nft", f"table ip cni {{ chain out {chain} ; }}")
        assert said(look_at(bare)).startswith("nft chain out of table ip cni (priority 90)")

    @pytest.mark.parametrize("target", ["NOTRACK", "CT --notrack"])
    def test_pods_are_not_tracked(self, node: Node, target: str) -> None:
        node.restore(f"*raw\n-A PREROUTING -s 10.0.0.0/8 -j {target}\nCOMMIT\n")
        assert said(look_at(node)) == (
            "another program exempts pods from connection tracking (ipv4): nat never sees them"
        )

    def test_nobodys_packets_are_tracked(self, node: Node) -> None:
        node.restore("*raw\n-A PREROUTING -j NOTRACK\nCOMMIT\n")
        assert "exempts pods from connection tracking (ipv4)" in said(look_at(node))

    @pytest.mark.parametrize(
        "rule",
        ["-i veth+ -j CT --notrack", "-p udp -m udp --dport 5060 -j NOTRACK", "-d 192.0.2.0/24 -j NOTRACK"],
    )
    def test_some_of_what_pods_send_is_not_tracked(self, node: Node, rule: str) -> None:
        node.restore(f"*raw\n-A PREROUTING {rule}\nCOMMIT\n")
        (found,) = of_level(look_at(node), Level.WARNING, Level.FAILURE)
        assert found.message.startswith(
            "another program exempts some of what pods send from connection tracking"
        )
        assert f"-A PREROUTING {rule}" in found.evidence

    def test_what_else_is_not_tracked_does_no_harm(self, node: Node) -> None:
        rules = (
            "-d 169.254.20.10/32 -p udp -j NOTRACK",
            "! -s 10.244.0.0/16 -j NOTRACK",
            "-i lo -j NOTRACK",
            '-s 10.0.0.0/8 -m comment --comment "see -j NOTRACK below" -j ACCEPT',
        )
        node.restore("\n".join(["*raw", *(f"-A PREROUTING {rule}" for rule in rules), "COMMIT\n"]))
        assert of_level(look_at(node), Level.WARNING, Level.FAILURE) == []

    def test_cilium_may_rewrite_where_nobody_sees(self, node: Node) -> None:
        node.namespace.batch(["link add cilium_host type veth peer name cilium_net"])
        (found,) = of_level(look_at(node), Level.UNKNOWN)
        assert found.message.startswith("Cilium is on this host: whether it masquerades in eBPF")

    def test_kube_vip_programs_egress_too(self, node: Node) -> None:
        node.restore(KUBE_VIP)
        found = look_at(node)
        assert "kube-vip programs egress on this node, too (VIP 198.51.100.9)" in said(found)
        assert found.exit_status == 0


class TestVips:
    def test_on_no_interface(self, node: Node) -> None:
        node.namespace.batch([f"addr del {VIP}/32 dev eth1"])
        found = look_at(node)
        assert said(found) == (
            f"the VIP {VIP} of sip/sip-client is on no interface of this host: answers do not come back here"
        )
        assert found.exit_status == 1
        assert look_at(node, agent="process 7").exit_status == 0

    def test_on_the_loopback_interface(self, node: Node) -> None:
        node.namespace.batch([f"addr del {VIP}/32 dev eth1", f"addr add {VIP}/32 dev lo"])
        found = look_at(node)
        assert f"the VIP {VIP} of sip/sip-client is on lo, where nobody else reaches it" in said(found)
        assert found.findings[0].level is Level.WARNING
        node.namespace.write_sysctls({"ipv4/conf/all/arp_ignore": "1"})
        assert look_at(node).findings[0].level is Level.FAILURE

    def test_on_an_interface_with_nothing_at_the_other_end(self, node: Node) -> None:
        node.namespace.batch(["link set far1 down"])
        assert said(look_at(node)) == (
            f"the VIP {VIP} of sip/sip-client is on eth1, and the interface eth1 has no carrier"
        )

    def test_on_an_interface_that_is_down(self, node: Node) -> None:
        node.namespace.batch(["link set eth1 down"])
        found = look_at(node)
        assert said(found) == f"the VIP {VIP} of sip/sip-client is on eth1, which is down"
        assert found.findings[0].mend == "ip link set dev eth1 up"


class TestHeartbeats:
    def test_they_do_not_come_any_more(self, node: Node) -> None:
        elected = replace(node, settings=TOLD._replace(elects=True, fence_seconds=10))
        elected.apply(WANTED)
        found = look_at(node)
        assert said(found).startswith(
            f"sip/sip-client ({VIP}): no heartbeat has come, and it counts for 10 s: its pods' traffic leaves without"
        )
        assert found.exit_status == 1
        with node.namespace.entered():
            assert fence.beat([(Family.IPV4, fence_name(parse_address(VIP)))]) == []
        assert look_at(node).exit_status == 0


class TestRouting:
    def test_a_rule_of_others_has_bits_of_our_mask(self, bare: Node) -> None:
        bare.run("ip", "rule", "add", "fwmark", "0x4/0x4", "lookup", "100")
        found = look_at(bare)
        assert "of another program uses bits of kvctl's mask 0x3c" in said(found)
        assert found.findings[0].mend == "set egress_fwmark_mask to others"

    def test_a_service_is_led_to_an_interface_that_is_not_there(self, node: Node) -> None:
        named = service(vip=VIP, annotations={"kube-vip.io/serviceInterface": "eth9"})
        source = objects(named, pod("sip/sip-client-0", POD))
        with node.namespace.entered():
            host = read_host()
            led = lead(resolve(source, TOLD, host=host), host=host)
            assert led.open() == []
            wish = Wish(resolution=led.resolution, scope=Scope(), settings=TOLD, host=host)
            with namespace_lock(timeout=10):
                apply(look(told=node.backend == "nft"), wish, drop_connections=False)
        found = look_at(node)
        assert said(found) == (
            f"sip/sip-client ({VIP}): this host has no interface eth9, by which its traffic is to leave: the routing "
            "table 7500 leads nowhere: nothing that is marked 0x4/0x3c leaves"
        )
        assert found.findings[0].evidence == "ip route show table 7500"
        assert "kube-vip.io/serviceInterface of sip/sip-client" in (found.findings[0].mend or "")
        assert found.exit_status == 1
        node.run("ip", "route", "flush", "table", "7500")
        assert "the routing table 7500 is empty: what is marked 0x4/0x3c leaves by the main table" in said(
            look_at(node)
        )


class TestBothFamilies:
    @pytest.fixture
    def dual(self, node: Node) -> Node:
        node.namespace.batch(
            [
                "addr add 2001:db8::10/64 dev eth1 nodad",
                f"addr add {VIP6}/128 dev eth1 nodad",
                "addr add fd00:244:0:1::1/64 dev cni0 nodad",
            ]
        )
        node.apply(objects(service(vip=(VIP, VIP6)), pod("sip/sip-client-0", POD, "fd00:244:0:1::5")))
        return node

    def test_all_is_well(self, dual: Node) -> None:
        found = look_at(dual)
        assert of_level(found, Level.FAILURE, Level.WARNING) == []
        assert any("ipv6: kvctl's jump comes first" in each.message for each in found.findings)

    def test_a_masquerade_above(self, dual: Node) -> None:
        dual.iptables("-I", "POSTROUTING", "-j", "MASQUERADE", family=Family.IPV6)
        assert said(look_at(dual)).endswith("before kvctl's jump in POSTROUTING of nat (ipv6)")

    def test_the_vip_is_on_no_interface(self, dual: Node) -> None:
        dual.namespace.batch([f"addr del {VIP6}/128 dev eth1"])
        assert said(look_at(dual)).startswith(f"the VIP {VIP6} of sip/sip-client is on no interface")


class TestBackEnds:
    def test_the_setting_is_not_what_kubelet_uses(self, bare: Node, backend: str) -> None:
        bare.restore("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n", backend=backend)
        found = look_at(bare, backend=backend != "nft")
        other, setting = ("legacy", "false") if backend == "nft" else ("nft", "true")
        assert said(found) == (
            f"egress_withnftables={setting} chooses the {other} back end, but this host uses {backend}: "
            "kubelet uses it"
        )

    def test_the_setting_is_not_where_all_rules_are(self, bare: Node, backend: str) -> None:
        bare.restore("*filter\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n", backend=backend)
        found = look_at(bare, backend=backend != "nft")
        assert said(found).endswith(f"but this host uses {backend}: it alone holds rules")
        assert found.findings[0].level is Level.WARNING

    def test_both_translate_sources(self, node: Node) -> None:
        other = elsewhere(node)
        other.restore("*nat\n-A POSTROUTING -s 10.10.0.0/16 -j MASQUERADE\nCOMMIT\n")
        found = look_at(node)
        assert f"the {other.backend} back end holds other programs' source translations too" in said(found)
        rule = "-A POSTROUTING -s 10.10.0.0/16 -j MASQUERADE"
        assert found.findings[0].evidence == f"{other.backend} nat: {rule}"
        assert found.exit_status == 0

    def test_both_translate_what_one_pod_sends(self, node: Node) -> None:
        other = elsewhere(node)
        other.restore("*nat\n-A POSTROUTING -s 10.244.0.0/16 -o eth0 -j MASQUERADE\nCOMMIT\n")
        found = look_at(node)
        assert said(found) == (
            f"the {other.backend} back end holds another program's rule for what pod {POD} of sip/sip-client sends, "
            "too: the back end that was registered later takes a connection, and which that is cannot be read"
        )
        first = found.findings[0]
        assert first.evidence == f"{other.backend} nat: -A POSTROUTING -s 10.244.0.0/16 -o eth0 -j MASQUERADE"
        removal = f"iptables-{other.backend} -t nat -D POSTROUTING -s 10.244.0.0/16 -o eth0 -j MASQUERADE"
        assert f"{removal}; else run kvctl with " in (first.mend or "")
        node.run(*removal.split())
        assert look_at(node).exit_status == 0

    def test_a_rule_with_more_than_words_is_not_given_to_a_shell(self, node: Node) -> None:
        other = elsewhere(node)
        rule = '-A POSTROUTING -m comment --comment "$(reboot)" -j MASQUERADE'
        other.restore(f"*nat\n{rule}\nCOMMIT\n")
        (first, *_) = look_at(node).findings
        assert "$(reboot)" in first.evidence
        assert "$(reboot)" not in (first.mend or "")
        assert f"iptables-{other.backend} -t nat -S POSTROUTING shows it" in (first.mend or "")

    def test_rules_of_ours_are_in_both(self, node: Node) -> None:
        found = look_at(node, backend=node.backend != "nft")
        messages = [each.message for each in found.findings]
        assert f"rules of kvctl's are in the {node.backend} back end, too, which is not in use" in messages

    def test_a_rule_that_this_version_cannot_read(self, bare: Node) -> None:
        bare.iptables("-A", "FORWARD", "-p", "tcp", "-j", "ACCEPT", table="filter")
        bare.run("nft", "add rule ip filter FORWARD meta cpu 0 counter")
        found = look_at(bare)
        assert said(found) == (
            "iptables-nft cannot read this host's ipv4 rules: a newer version, or nft itself, wrote some that this "
            "one does not know"
        )
        assert "Parsing nftables rule failed" in found.findings[0].evidence
        assert found.exit_status == 4

    def test_native_rules_hide_the_others(self, make_native: Node) -> None:
        found = look_at(make_native)
        assert "native nft rules in table ip nat hide its rules from iptables (ipv4)" in said(found)


@pytest.fixture
def make_native(bare: Node) -> Node:
    bare.iptables("-A", "POSTROUTING", "-p", "tcp", "-j", "ACCEPT")
    bare.run("nft", "add rule ip nat POSTROUTING meta mark { 0x77, 0x78 } fib daddr type local log")
    return bare


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PATH with nothing but nft, ip and what the test puts into this directory."""
    names = [
        f"{stem}-{backend}{role}"
        for backend in BACKENDS
        for stem in ("iptables", "ip6tables")
        for role in ("", "-save", "-restore")
    ]
    real = {name: path for name in ("nft", "ip", *names) if (path := proc.find(name)) is not None}
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, path in real.items():
        # By its own name: the multi-call binary tells by it what it is.
        (directory / name).symlink_to(os.path.realpath(path))
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(proc, "_SBIN", ())
    monkeypatch.setattr(binaries, "_versions", {})
    proc.find.cache_clear()
    yield directory
    proc.find.cache_clear()


def _wrap(directory: Path, name: str, script: str) -> None:
    """Put a script in a program's place, which has its path as $real."""
    real = (directory / name).rename(directory / f"{name}.real")
    multi = os.path.realpath(real)
    link = directory / "real" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(multi)
    (directory / name).write_text(f"#!/bin/sh\nreal={link}\n{script}\n", encoding="ascii")
    (directory / name).chmod(stat.S_IRWXU)


class TestPrograms:
    def test_none_at_all(self, bare: Node, only: Path) -> None:
        for path in only.iterdir():
            path.unlink()
        found = look_at(bare)
        assert said(found) == "no iptables is on this host"
        assert "package iptables" in str(found.findings[0].mend)
        assert found.exit_status == 4

    def test_not_of_the_back_end_that_is_told(self, bare: Node, only: Path, backend: str) -> None:
        for path in only.glob(f"*-{backend}*"):
            path.unlink()
        found = look_at(bare, backend=backend == "nft")
        assert said(found) == f"neither iptables-{backend} nor iptables is on this host"
        assert found.exit_status == 4

    def test_only_the_one_that_writes_is_missing(self, node: Node, only: Path) -> None:
        (only / f"iptables-{node.backend}-restore").unlink()
        found = look_at(node)
        assert said(found) == f"neither iptables-{node.backend}-restore nor iptables-restore is on this host"
        assert found.exit_status == 1

    def test_without_ip6tables_ipv4_works(self, node: Node, only: Path) -> None:
        for path in only.glob("ip6tables-*"):
            path.unlink()
        found = look_at(node)
        assert f"neither ip6tables-{node.backend} nor ip6tables is on this host" in said(found)
        assert found.exit_status == 0

    def test_one_that_takes_no_lock(self, bare: Node, only: Path) -> None:
        for name in ("iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore"):
            _wrap(only, name, f'[ "$1" = --version ] && echo {name} v1.6.0 || exec $real "$@"')
        assert "iptables v1.6.0 (legacy) is older than 1.6.2" in said(look_at(bare, backend=False))

    def test_without_nft_something_is_not_seen(self, node: Node, only: Path) -> None:
        (only / "nft").unlink()
        found = look_at(node)
        assert said(found) == "nothing found that keeps egress from working; 1 check could not tell"

    def test_rules_of_another_version(self, node: Node, only: Path) -> None:
        node.restore("*nat\n:DNS - [0:0]\n-A DNS -p udp -j DNAT --to-destination 10.244.1.9\nCOMMIT\n")
        script = "$real \"$@\" | /bin/sed 's/DNAT --to.*/DNAT [unsupported revision]/'"
        _wrap(only, f"iptables-{node.backend}-save", script)
        found = look_at(node)
        assert "1 rule (ipv4) cannot be read by this version of iptables" in said(found)
        assert found.findings[0].evidence == "-A DNS -p udp -j DNAT [unsupported revision]"


class TestWhatTheKernelLacks:
    def _without(self, only: Path, node: Node, word: str) -> None:
        (only / "word").write_text(f"-m {word}\n", encoding="ascii")
        script = (
            '[ "$1" = --version ] && exec $real "$@"; text=$(/bin/cat); '
            f'if printf "%s\\n" "$text" | /bin/grep -q -f {only / "word"}; then '
            f'echo "Extension {word} revision 0 not supported" >&2; exit 4; fi; '
            'printf "%s\\n" "$text" | $real "$@"'
        )
        _wrap(only, f"iptables-{node.backend}-restore", script)

    def test_multiport(self, node: Node, only: Path) -> None:
        self._without(only, node, "multiport")
        found = look_at(node)
        assert said(found) == (
            "ipv4: the kernel or iptables lacks multiport: Services with several ports cannot be rewritten"
        )
        assert "Extension multiport revision 0 not supported" in found.findings[0].evidence

    def test_recent_is_needed_by_the_fence_alone(self, node: Node, only: Path) -> None:
        self._without(only, node, "recent")
        found = look_at(node)
        assert "lacks recent: with serviceElection only addresses are fenced" in said(found)
        assert found.exit_status == 0

    def test_what_nf_tables_says_that_it_lacks(
        self, bare: Node, family: Family, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            extensions, "has_extension", lambda name, kind, its: name != "SNAT" or its is not family
        )
        monkeypatch.setattr(Privileges, "may_make_namespaces", False)
        found = look_at(bare, backend=True)
        assert f"{family}: the kernel or iptables lacks the nat table, comments and SNAT" in said(found)
        assert found.exit_status == (1 if family is Family.IPV4 else 0)


class TestRanges:
    def test_pods_are_routed_outside_of_the_default(self, bare: Node) -> None:
        found = look_at(bare, told=settings())
        assert said(found) == (
            "pods are in 10.244.1.0/24, outside the pod CIDR 10.0.0.0/16 (default): such Services are skipped"
        )
        assert found.findings[0].evidence == "10.244.1.0/24 (route by cni0)"
        assert look_at(bare, told=settings(), agent="process 7").exit_status == 0

    def test_rules_tell_the_ranges_that_their_writer_had(self, node: Node) -> None:
        found = look_at(node, told=settings())
        assert found.exit_status == 0
        assert any("10.244.0.0/16 (as kvctl's rules have it) fits" in each.message for each in found.findings)

    def test_rules_have_a_range_that_nobody_else_here_knows(self, node: Node) -> None:
        twice = settings(pod_cidrs=("10.244.0.0/16", "10.77.0.0/16"), service_cidrs=("10.96.0.0/12",))
        replace(node, settings=twice).apply(WANTED)
        found = look_at(node, told=settings())
        assert said(found) == (
            "nothing found that keeps egress from working, but: kvctl's rules take 10.77.0.0/16 for pods, where no "
            "route or address of this host is: what pods send there is never rewritten"
        )
        assert look_at(node, told=settings(), agent="process 7").findings[0].level is Level.FINE

    def test_cluster_ips_are_outside_of_what_is_told(self, bare: Node, backend: str) -> None:
        bare.restore(rules_of("kube-proxy", Family.IPV4), backend=backend)
        told = settings(pod_cidrs=("10.244.0.0/16",), service_cidrs=("10.43.0.0/16",))
        assert said(look_at(bare, told=told)) == (
            "ClusterIPs are in 10.96.0.1/32, outside the service CIDR 10.43.0.0/16 (--service-cidr): "
            "such Services are skipped"
        )

    def test_a_node_has_other_pods_than_are_told(self, bare: Node) -> None:
        bare.namespace.batch(["link del cni0"])
        source = objects(a_node("worker", pod_cidrs=("10.42.3.0/24",)))
        assert "pods are in 10.42.3.0/24, outside the pod CIDR 10.244.0.0/16" in said(
            look_at(bare, source=source)
        )

    def test_a_pod_and_a_service_of_the_source_are_outside(self, bare: Node) -> None:
        source = objects(pod("sip/a", "10.9.9.9"), service(cluster_ips=("172.20.0.7",)))
        found = look_at(bare, source=source)
        assert "pods are in 10.9.9.9/32, outside the pod CIDR" in said(found)
        assert "ClusterIPs are in 172.20.0.7/32, outside the service CIDR" in found.findings[1].message

    def test_what_a_cluster_names_counts(self, bare: Node) -> None:
        source = objects(a_node("worker", pod_cidrs=("10.244.1.0/24",)), service(cluster_ips=("10.96.0.7",)))
        hints_only = look_at(bare, told=settings(), source=source)
        assert "outside" in said(hints_only)  # a file's Nodes become hints where it is read
        assert look_at(bare, told=TOLD, source=source).exit_status == 0

    def test_the_default_takes_in_the_hosts_own_network(self, bare: Node) -> None:
        bare.namespace.batch(
            [
                "link del cni0",
                "addr flush dev eth0",
                "addr add 10.0.1.10/24 dev eth0",
                "route add default via 10.0.1.1",
            ]
        )
        found = look_at(bare, told=settings())
        assert (
            "the pod CIDR 10.0.0.0/16 (default) takes in 10.0.1.0/24, this host's own network on eth0"
            in said(found)
        )

    def test_a_guess_is_told_as_one(self, bare: Node) -> None:
        bare.namespace.batch(["link del cni0"])
        found = look_at(bare, told=settings())
        assert said(found) == "nothing found that keeps egress from working; 2 checks could not tell"
        assert found.findings[0].message == (
            "the pod CIDR 10.0.0.0/16 (default) is a guess: nothing here tells whether it is right"
        )


class TestConntrack:
    """By files: only the host itself may set the limit."""

    def _said(self, path: Path, *, count: int, statistics: str = "") -> str:
        for name, value in {"count": count, "max": 100, "acct": 0}.items():
            (path / f"nf_conntrack_{name}").write_text(f"{value}\n", encoding="ascii")
        (path / "stat").write_text(statistics, encoding="ascii")
        return verdict(list(conntrack.check(settings=path, statistics=path / "stat")))

    def test_a_full_table(self, tmp_path: Path) -> None:
        text = self._said(tmp_path, count=100)
        assert text == "the table of connections is full (100 of 100): new ones are dropped"

    def test_one_that_fills(self, tmp_path: Path) -> None:
        assert "the table of connections is 85 % full" in self._said(tmp_path, count=85)

    def test_connections_that_were_refused(self, tmp_path: Path) -> None:
        statistics = "entries insert_failed drop early_drop\n00000001 0000000a 0 0\n00000001 00000001 0 0\n"
        assert "the kernel has refused 11 connections so far" in self._said(
            tmp_path, count=1, statistics=statistics
        )

    def test_nothing_to_say(self, tmp_path: Path) -> None:
        statistics = "entries insert_failed drop early_drop\n00000001 00000000 0 0\n"
        text = self._said(tmp_path, count=1, statistics=statistics)
        assert text == "nothing found that keeps egress from working"

    def test_not_loaded(self, tmp_path: Path) -> None:
        (found,) = conntrack.check(settings=tmp_path, statistics=tmp_path / "stat")
        assert found.level is Level.UNKNOWN


class TestTheLockFile:
    @pytest.fixture
    def lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "xtables.lock"
        monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
        return path

    def test_a_directory(self, bare: Node, lock: Path) -> None:
        lock.mkdir()
        assert said(look_at(bare, backend=False)).startswith(f"{lock} is a directory")

    def test_one_that_somebody_keeps(self, bare: Node, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lockfile, "_PATIENCE", 0.1)
        with lock.open("w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert said(look_at(bare, backend=False)).startswith(f"process {os.getpid()} keeps {lock}")

    def test_the_nft_back_end_needs_none(self, bare: Node, lock: Path) -> None:
        lock.mkdir()
        assert look_at(bare, backend=True).exit_status == 0

    def test_a_containers_own(self) -> None:
        row = "1 0 0:1 / {} rw - {} none rw"
        own = row.format("/", "overlay")
        path = Path("/run/xtables.lock")
        assert not lockfile._is_shared(path, own)
        assert lockfile._is_shared(path, f"{own}\n{row.format('/run/xtables.lock', 'ext4')}")
        assert lockfile._is_shared(path, f"{own}\n{row.format('/run', 'tmpfs')}")
        assert lockfile._is_shared(path, row.format("/", "ext4"))
