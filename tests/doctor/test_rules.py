"""What doctor says of kvctl's own rules, and of those of others that drop what is rewritten."""

from __future__ import annotations

import pytest

from kvctl.doctor.finding import Level
from kvctl.model.net import Family
from kvctl.policy import layout
from tests.builders import objects, pod, ref, service
from tests.doctor.host import POD, VIP, WANTED, look_at, of_level, said
from tests.robustness.foreign_rules import PROGRAMS, rules_of
from tests.robustness.node import Node

CHAIN = layout.REWRITING.service_chain(ref("sip/sip-client"))
BY_HAND = "kvctl egress apply -f FILE"
BEHIND = "KVCTL-TO-0.0.0.0-0"
"""What is behind the gates of the few pods."""
TWO_PODS_OF_ONE = (service(vip=VIP), pod("sip/sip-client-0", POD), pod("sip/sip-client-1", "10.244.1.6"))
TWO_PODS = objects(*TWO_PODS_OF_ONE)
TWO_PORTS = objects(service(vip=VIP, ports="udp:5060,tcp:80"), pod("sip/sip-client-0", POD))


class TestTheRulesAreNotAsWritten:
    def test_the_chain_of_a_service_was_flushed(self, node: Node) -> None:
        node.iptables("-F", CHAIN)
        found = look_at(node)
        assert said(found) == (
            f"sip/sip-client (ipv4): {CHAIN} is empty, somebody has flushed it: its pods' traffic is not rewritten"
        )
        assert found.findings[0].check == "rules"
        assert found.findings[0].mend == BY_HAND
        assert found.exit_status == 1

    def test_a_rule_of_a_service_was_removed(self, node: Node) -> None:
        node.apply(TWO_PORTS)
        node.iptables("-D", CHAIN, "1")
        found = look_at(node)
        assert said(found).startswith(f"sip/sip-client (ipv4): the rules of {CHAIN} are not those")
        assert found.exit_status == 1
        by_source = look_at(node, source=TWO_PORTS, again="-f phone.yaml")
        assert f"{CHAIN} lacks `" in said(by_source)
        assert by_source.findings[0].mend == "kvctl egress apply -f phone.yaml"

    def test_a_rule_of_a_service_was_changed(self, node: Node) -> None:
        node.iptables("-R", CHAIN, "1", "-j", "SNAT", "--to-source", "198.51.100.10")
        found = look_at(node)
        assert said(found).startswith("sip/sip-client (ipv4): ")
        assert found.findings[0].check == "rules"
        assert found.findings[0].evidence == f"-A {CHAIN} -j SNAT --to-source 198.51.100.10"
        assert found.exit_status == 1

    def test_the_jump_of_its_only_pod_was_removed(self, node: Node) -> None:
        rules = [line for line in node.save().splitlines() if line.startswith(f"-A {BEHIND} ")]
        node.iptables("-D", BEHIND, str(len(rules)))
        found = look_at(node)
        assert said(found) == (
            "sip/sip-client (ipv4): no rule leads any pod to its rules: somebody has removed its pods' jumps, or the "
            "pods have gone"
        )
        assert found.exit_status == 1

    def test_the_gate_of_the_only_pod_was_removed(self, node: Node) -> None:
        node.iptables("-D", "KVCTL-EGRESS", "1")
        (told,) = [each.message for each in look_at(node).findings if each.level is Level.FAILURE]
        assert told == (
            "kvctl's chain KVCTL-EGRESS of nat (ipv4) is empty: somebody has flushed it, and no pod's packet comes to "
            "the rules of its Service"
        )

    def test_the_jump_of_a_pod_was_removed(self, node: Node) -> None:
        node.apply(TWO_PODS)
        rules = [line for line in node.save().splitlines() if line.startswith(f"-A {BEHIND} ")]
        number = next(at for at, line in enumerate(rules, 1) if f"-s {POD}/32" in line)
        node.iptables("-D", BEHIND, str(number))
        found = look_at(node, source=TWO_PODS)
        assert f"{BEHIND} lacks `-s {POD}/32 -j " in said(found)
        assert found.exit_status == 1

    def test_the_gate_of_a_pod_was_removed(self, node: Node) -> None:
        others = (service("sip/other", vip=VIP), pod("sip/other-0", "10.244.1.7"))
        node.apply(objects(*TWO_PODS_OF_ONE, *others))
        node.iptables("-D", "KVCTL-EGRESS", "1")
        told = f"1 of 5 rules is not as wanted: KVCTL-EGRESS lacks `-s {POD}/32 -g {BEHIND}`"
        for source in (None, objects(*TWO_PODS_OF_ONE, *others)):
            found = look_at(node, source=source)
            assert [each.message for each in found.findings if each.check == "rules"] == [
                f"sip/sip-client (ipv4): {told}"
            ]
            assert found.exit_status == 1

    def test_the_same_fault_of_several_services_is_told_once(self, node: Node) -> None:
        several = [service(f"sip/s{at}", vip=VIP, selector={"app": f"s{at}"}) for at in range(5)]
        pods = [pod(f"sip/s{at}-0", f"10.244.1.{at + 10}", labels={"app": f"s{at}"}) for at in range(5)]
        wanted = objects(*several, *pods)
        found = look_at(node, source=wanted)
        (told,) = [each for each in found.findings if "wanted here and missing" in each.message]
        assert told.message == (
            "sip/s0 (ipv4), sip/s1 (ipv4), sip/s2 (ipv4) and 2 more: its rules are wanted here and missing"
        )


class TestAgainstASource:
    def test_no_rules_where_some_are_wanted(self, node: Node) -> None:
        node.flush()
        found = look_at(node, source=WANTED, again="-f phone.yaml")
        assert said(found) == "sip/sip-client (ipv4): its rules are wanted here and missing"
        assert found.findings[0].mend == "kvctl egress apply -f phone.yaml"
        assert found.exit_status == 1

    def test_an_agent_may_have_other_settings(self, node: Node) -> None:
        node.flush()
        found = look_at(node, source=WANTED, agent="process 7")
        assert "its rules are wanted here and missing" in said(found)
        assert found.findings[0].level is Level.WARNING

    def test_as_wanted(self, node: Node) -> None:
        found = look_at(node, source=WANTED)
        assert found.exit_status == 0
        messages = [each.message for each in found.findings]
        assert "the rules of 1 Service are as the source wants them" in messages

    def test_none_wanted_and_none_there(self, bare: Node) -> None:
        messages = [each.message for each in look_at(bare, source=objects()).findings]
        assert "the source wants no rules here, and there are none" in messages

    def test_rules_that_are_not_wanted_any_more(self, node: Node) -> None:
        found = look_at(node, source=objects(service(vip=VIP)))
        assert "sip/sip-client (ipv4) has rules here, and is to have none: " in said(found)
        assert found.exit_status == 0

    def test_the_vip_is_on_another_interface_than_the_service_names(self, node: Node) -> None:
        named = service(vip=VIP, annotations={"kube-vip.io/serviceInterface": "eth0"})
        found = look_at(node, source=objects(named, pod("sip/sip-client-0", POD)))
        text = f"sip/sip-client: the VIP {VIP} is on eth1, not on the service interface eth0"
        assert text in [each.message for each in of_level(found, Level.WARNING)]


class TestNoRulesAtAll:
    def test_beside_an_agent_nobody_can_tell_whether_some_are_wanted(self, bare: Node) -> None:
        (found,) = of_level(look_at(bare, agent="process 7"), Level.UNKNOWN)
        assert found.message == (
            "an agent lives here, and there is no rule of kvctl's: none is wanted here, or somebody has removed them"
        )
        assert found.mend == "kvctl doctor --cluster tells which"

    def test_by_hand_it_is_said(self, bare: Node) -> None:
        messages = [each.message for each in look_at(bare).findings]
        assert "there are no rules of kvctl's here: no pod is rewritten" in messages


class TestConnections:
    def test_one_from_before_the_rules(self, node: Node) -> None:
        ends = "-p udp -s {} -d 203.0.113.9 --sport 5060 --dport 5060 -n 192.0.2.10 -t 60"
        node.run("conntrack", "-I", *ends.format(POD).split())
        found = look_at(node)
        (told,) = of_level(found, Level.WARNING)
        assert told.message == "sip/sip-client: 1 connection has another source than the rules give"
        assert told.mend == f"{BY_HAND} (drops them, and they begin anew)"
        node.apply(WANTED)
        assert of_level(look_at(node), Level.WARNING) == []


class TestRulesThatDrop:
    def test_a_policy_without_an_exception(self, node: Node) -> None:
        node.iptables("-P", "FORWARD", "DROP", table="filter")
        found = look_at(node)
        assert said(found) == (
            f"what pod {POD} of sip/sip-client sends out is dropped in FORWARD of filter (ipv4, {node.backend}), "
            "by the policy of the chain"
        )
        assert found.findings[0].evidence == "-P FORWARD DROP"
        assert f"iptables-{node.backend} -I FORWARD -s {POD}/32 -j ACCEPT" in (found.findings[0].mend or "")
        node.iptables("-A", "FORWARD", "-s", "10.244.0.0/16", "-j", "ACCEPT", table="filter")
        found = look_at(node)
        assert said(found).startswith(
            f"every answer to what pod {POD} of sip/sip-client sends out is dropped in FORWARD"
        )
        assert found.exit_status == 1
        mend = (found.findings[0].mend or "").rpartition("; ")[2]
        node.run(*mend.split())
        assert look_at(node).exit_status == 0

    @pytest.mark.parametrize("backend", ["nft"])
    def test_a_native_rule_that_is_printed_as_a_drop_of_all_is_not_believed(self, node: Node) -> None:
        node.iptables("-A", "FORWARD", "-s", "10.99.0.0/16", "-j", "ACCEPT", table="filter")
        rule = "add rule ip filter FORWARD ip saddr { 10.99.0.1, 10.99.0.2 } drop"
        node.run("nft", *rule.split())
        assert "-A FORWARD -j DROP" in node.run("iptables-nft-save", "-t", "filter")
        assert not [each for each in of_level(look_at(node), Level.FAILURE) if each.check == "way"]

    def test_a_rule_that_names_the_pod(self, node: Node) -> None:
        node.iptables("-A", "FORWARD", "-s", POD, "-j", "DROP", table="filter")
        found = look_at(node)
        assert said(found).endswith("by a rule that is another program's")
        assert found.findings[0].evidence == f"-A FORWARD -s {POD}/32 -j DROP"
        assert f"kvctl egress trace --from {POD} --to " in (found.findings[0].mend or "")

    def test_a_rule_of_others_about_some_packets_does_no_harm(self, node: Node) -> None:
        for rule in ("-p tcp --dport 25", "-m conntrack --ctstate INVALID", "-d 203.0.113.0/24", "-i eth0"):
            node.iptables("-A", "FORWARD", *rule.split(), "-j", "DROP", table="filter")
        assert of_level(look_at(node), Level.FAILURE, Level.WARNING) == []

    @pytest.mark.parametrize("program", PROGRAMS)
    def test_programs_of_a_healthy_node_drop_nothing(self, node: Node, program: str) -> None:
        node.restore(rules_of(program, Family.IPV4).replace("10.0.0.0/16", "10.244.0.0/16"))
        node.apply(WANTED)
        found = look_at(node)
        assert of_level(found, Level.FAILURE, Level.WARNING) == []
        assert "what 1 pod sent out would come through everybody's rules" in [
            e.message for e in found.findings
        ]

    def test_only_packets_that_are_rewritten_count(self, node: Node) -> None:
        node.iptables("-A", "FORWARD", "-p", "tcp", "-j", "DROP", table="filter")
        assert look_at(node).exit_status == 0
        node.apply(objects(service(vip=VIP, ports="tcp:80"), pod("sip/sip-client-0", POD)))
        assert look_at(node).exit_status == 1

    def test_a_network_policy_may_mean_it(self, node: Node) -> None:
        node.restore(
            f"*filter\n:policy-7 - [0:0]\n-A FORWARD -j policy-7\n-A policy-7 -s {POD} -j REJECT\nCOMMIT\n"
        )
        found = look_at(node)
        assert "is dropped in policy-7 of filter" in said(found)
        assert found.exit_status == 0

    def test_what_cannot_be_judged_is_not_told(self, node: Node) -> None:
        node.iptables("-A", "FORWARD", "-m", "limit", "--limit", "1/s", "-j", "DROP", table="filter")
        assert of_level(look_at(node), Level.FAILURE, Level.WARNING) == []

    def test_without_a_route_nothing_is_told(self, node: Node) -> None:
        node.iptables("-P", "FORWARD", "DROP", table="filter")
        node.namespace.batch(
            ["route del default", "addr del 192.0.2.10/24 dev eth0", "addr del 198.51.100.10/24 dev eth1"]
        )
        assert not any(each.check == "way" for each in look_at(node).findings)
