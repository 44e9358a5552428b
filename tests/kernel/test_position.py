"""Another program's rules in POSTROUTING: which of them may stand above kvctl's jump, and what mends it."""

from __future__ import annotations

import pytest

from kvctl.model.net import Family
from kvctl.reconcile.report import Status
from tests.builders import service
from tests.kernel.node import VIPS, Packets, Worker, lab_pod

MINE = (service(vip=VIPS), lab_pod())
FIRST_REASON = "the jump in POSTROUTING is not where it has to be: another program's rule comes first"


def masquerade(packets: Packets) -> tuple[str, ...]:
    """What a CNI writes for its pods."""
    return ("-s", packets.who.pod_network, "!", "-d", packets.who.pod_network, "-j", "MASQUERADE")


def postrouting(worker: Worker, family: Family) -> list[str]:
    """The rules of POSTROUTING in their order."""
    prefix = "-A POSTROUTING "
    return [line.removeprefix(prefix) for line in worker.saved(family) if line.startswith(prefix)]


def test_a_masquerade_that_was_there_first_stays_below(worker: Worker, packets: Packets) -> None:
    worker.apply(*MINE)
    assert packets.seen() == packets.who.vip
    rules = postrouting(worker, packets.family)
    assert "KVCTL-EGRESS" in rules[0]
    assert "MASQUERADE" in rules[1]


@pytest.mark.parametrize("target", ["MASQUERADE", "ACCEPT", "SNAT", "RETURN", "chain", "goto"])
def test_a_rule_that_takes_the_traffic_is_reported_and_apply_goes_above_it(
    worker: Worker, packets: Packets, target: str
) -> None:
    who, family = packets.who, packets.family
    worker.apply(*MINE)
    ending = {
        "MASQUERADE": ("-j", "MASQUERADE"),
        "ACCEPT": ("-j", "ACCEPT"),
        "SNAT": ("-j", "SNAT", "--to-source", who.worker_eth1),
        "RETURN": ("-j", "RETURN"),
        "chain": ("-j", "CNI-OUT"),
        "goto": ("-g", "CNI-OUT"),
    }[target]
    if target in ("chain", "goto"):
        worker.iptables(family, "-t", "nat", "-N", "CNI-OUT")
        worker.iptables(family, "-t", "nat", "-A", "CNI-OUT", "-p", "udp", "-j", "MASQUERADE")
    worker.iptables(family, "-t", "nat", "-I", "POSTROUTING", "-s", who.pod_network, *ending)
    assert packets.seen() != who.vip
    compared = worker.compare(*MINE)
    item = next(item for item in compared.items if item.family is family)
    assert compared.differs
    assert (item.status, item.reason) == (Status.DRIFTED, FIRST_REASON)
    assert [i.status for i in worker.listed() if i.family is family] == [Status.DRIFTED]
    foreign = [rule for rule in postrouting(worker, family) if "kvctl:" not in rule]
    applied = worker.apply(*MINE)
    assert applied.restores == 1
    assert packets.seen() == who.vip
    assert [rule for rule in postrouting(worker, family) if "kvctl:" not in rule] == foreign
    assert worker.apply(*MINE).restores == 0


def test_a_cni_that_keeps_inserting_its_rule_is_overcome_each_time(worker: Worker, packets: Packets) -> None:
    for _ in range(3):
        worker.iptables(packets.family, "-t", "nat", "-I", "POSTROUTING", *masquerade(packets))
        worker.apply(*MINE)
        assert packets.seen() == packets.who.vip
    assert sum("KVCTL-EGRESS" in rule for rule in postrouting(worker, packets.family)) == 1


def test_rules_that_cannot_take_the_pods_traffic_are_tolerated_above(
    worker: Worker, packets: Packets
) -> None:
    who, family = packets.who, packets.family
    worker.apply(*MINE)
    elsewhere = "10.77.0.0/16" if family is Family.IPV4 else "fd00:77::/64"
    nat = ("-t", "nat", "-I", "POSTROUTING")
    worker.iptables(family, *nat, "-s", elsewhere, "-j", "MASQUERADE")
    worker.iptables(family, *nat, "!", "-s", who.pod_network, "-j", "MASQUERADE")
    worker.iptables(family, *nat, "-m", "comment", "--comment", "-j ACCEPT", "-j", "LOG")
    worker.iptables(family, "-t", "nat", "-N", "KUBE-POSTROUTING")
    chain = ("-t", "nat", "-A", "KUBE-POSTROUTING")
    worker.iptables(family, *chain, "-m", "mark", "!", "--mark", "0x4000/0x4000", "-j", "RETURN")
    worker.iptables(family, *chain, "-j", "MARK", "--xor-mark", "0x4000")
    worker.iptables(
        family, *chain, "-m", "comment", "--comment", "kubernetes service traffic", "-j", "MASQUERADE"
    )
    worker.iptables(
        family, *nat, "-m", "comment", "--comment", "kubernetes postrouting rules", "-j", "KUBE-POSTROUTING"
    )
    assert not worker.compare(*MINE).differs
    assert worker.apply(*MINE).restores == 0
    assert packets.seen() == who.vip


def test_kube_postrouting_without_its_first_rule_is_not_tolerated(worker: Worker, packets: Packets) -> None:
    family = packets.family
    worker.apply(*MINE)
    worker.iptables(family, "-t", "nat", "-N", "KUBE-POSTROUTING")
    worker.iptables(family, "-t", "nat", "-A", "KUBE-POSTROUTING", "-j", "MASQUERADE")
    worker.iptables(family, "-t", "nat", "-I", "POSTROUTING", "-j", "KUBE-POSTROUTING")
    assert worker.compare(*MINE).differs
    worker.apply(*MINE)
    assert packets.seen() == packets.who.vip


@pytest.mark.parametrize("loss", ["hook", "gate", "jump", "rule"])
def test_rules_that_somebody_took_away_are_reported_and_put_back(
    worker: Worker, packets: Packets, loss: str
) -> None:
    family = packets.family
    worker.apply(*MINE)
    if loss == "hook":
        worker.iptables(family, "-t", "nat", "-D", "POSTROUTING", "1")
    elif loss == "gate":
        worker.iptables(family, "-t", "nat", "-D", "KVCTL-EGRESS", "1")
    elif loss == "jump":
        rules = [line.split()[1] for line in worker.saved(family) if line.startswith("-A KVCTL-TO-")]
        worker.iptables(family, "-t", "nat", "-D", rules[0], str(len(rules)))
    else:
        chain = next(line.split()[1] for line in worker.saved(family) if "--to-source" in line)
        worker.iptables(family, "-t", "nat", "-F", chain)
    assert packets.seen() == packets.who.worker_eth1
    status = next(item.status for item in worker.compare(*MINE).items if item.family is family)
    assert status in (Status.DRIFTED, Status.MISSING)
    worker.apply(*MINE)
    assert packets.seen() == packets.who.vip
    assert not worker.compare(*MINE).differs


def test_a_rule_that_somebody_put_into_a_chain_of_ours_goes(worker: Worker, packets: Packets) -> None:
    family = packets.family
    worker.apply(*MINE)
    worker.iptables(family, "-t", "nat", "-I", "KVCTL-EGRESS", "-j", "ACCEPT")
    assert packets.seen() == packets.who.pod or packets.seen() is None
    assert worker.compare(*MINE).differs
    worker.apply(*MINE)
    assert packets.seen() == packets.who.vip


def test_a_second_hook_is_removed(worker: Worker, packets: Packets) -> None:
    worker.apply(*MINE)
    rule = ("-m", "comment", "--comment", "kvctl:aaaaaaaaaaaaaaaa egress", "-j", "KVCTL-EGRESS")
    worker.iptables(packets.family, "-t", "nat", "-A", "POSTROUTING", *rule)
    assert worker.compare(*MINE).differs
    worker.apply(*MINE)
    assert sum("KVCTL-EGRESS" in each for each in postrouting(worker, packets.family)) == 1


def test_rules_in_the_other_back_end_are_moved_over(worker: Worker, packets: Packets) -> None:
    first = Worker(worker.lab, told=worker.lab.topology.backend != "nft")
    now = Worker(worker.lab, told=worker.lab.topology.backend == "nft")
    there = "legacy" if worker.lab.topology.backend == "nft" else "nft"
    first.apply(*MINE)
    assert any("KVCTL" in line for line in worker.saved(packets.family, backend=there))
    assert {item.status for item in now.listed()} == {Status.ORPHANED}
    assert now.compare(*MINE).differs
    now.apply(*MINE)
    assert packets.seen() == packets.who.vip
    assert not any("KVCTL" in line for line in worker.saved(packets.family, backend=there))
    assert not now.compare(*MINE).differs
    first.apply(*MINE)
    now.flush()
    for backend in ("nft", "legacy"):
        assert not any("KVCTL" in line for line in worker.saved(packets.family, backend=backend))
