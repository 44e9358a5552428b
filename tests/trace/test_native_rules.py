"""Native nft rules among and beside those of iptables: no verdict where they matter, none that is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvctl.lab.build import built, unique_prefix
from kvctl.lab.topology import STANDARD, standard
from kvctl.model.net import Family, parse_address
from kvctl.trace.packet import Question
from kvctl.trace.question import trace
from kvctl.trace.story import sentence
from tests.builders import service
from tests.kernel.node import VIPS, Worker, lab_pod

WHO = STANDARD[Family.IPV4]
OURS = f"leaves by eth1 with {WHO.vip}, the VIP of sip/sip-client"
ASKED = Question(
    source=parse_address(WHO.pod),
    destination=parse_address(WHO.outside_eth1),
    protocol="udp",
    destination_port=5060,
)
OTHERS = "{ 10.9.9.9, 10.9.9.8 }"


@pytest.fixture(scope="module")
def node(kernel: None) -> Iterator[Worker]:
    """A node on which the lab's pod leaves with the VIP."""
    with built(standard(backend="nft"), prefix=unique_prefix("test")) as lab:
        worker = Worker(lab)
        worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
        yield worker


@pytest.fixture
def told(node: Worker) -> Iterator[Worker]:
    """It, and afterwards the rules as they were."""
    node.iptables(Family.IPV4, "-A", "FORWARD", "-s", "10.99.0.0/16", "-j", "ACCEPT")
    yield node
    node.lab["worker"].run(["nft", "flush", "table", "ip", "filter"])
    node.lab["worker"].run(["nft", "delete", "table", "ip", "native"])


def judged(worker: Worker, rule: str) -> tuple[str, tuple[str, ...]]:
    """What is said beneath a native rule: the first line, and the notes."""
    done = worker.lab["worker"].run(["nft", *rule.split()])
    assert done.status == 0, done.stderr
    with worker.lab["worker"].entered():
        found = trace(ASKED)
    return sentence(found).partition(":5060: ")[2], found.notes


@pytest.mark.parametrize(
    "rule", ["ip saddr 10.0.0.1-10.0.0.9 drop", f"ip saddr {OTHERS} drop", "udp dport { 7000, 7001 } drop"]
)
def test_a_native_rule_that_may_drop_is_no_drop_and_is_noted(told: Worker, rule: str) -> None:
    said, notes = judged(told, f"add rule ip filter FORWARD {rule}")
    assert said == OURS
    (note,) = notes
    assert note.startswith(
        "it may be dropped before, in filter FORWARD: it cannot be judged: -m nft --handle "
    )
    assert note.endswith(": a native nft rule, which iptables-save prints wrong: see nft -a list ruleset")


def test_a_native_rule_that_may_end_the_walk_before_ours_gives_no_verdict(told: Worker) -> None:
    said, _ = judged(told, f"insert rule ip nat POSTROUTING ip saddr {OTHERS} return")
    handle = said.partition("--handle ")[2].split(" ")[0]
    told.lab["worker"].run(["nft", "delete", "rule", "ip", "nat", "POSTROUTING", "handle", handle])
    assert said.startswith("cannot be judged: nat -A POSTROUTING -m nft --handle ")


@pytest.mark.parametrize(
    ("rule", "what"),
    [("ip saddr set 192.0.2.1", "sets addresses of packets"), ("notrack", "exempts packets from conntrack")],
)
def test_a_chain_beside_iptables_that_goes_round_conntrack_gives_no_verdict(
    told: Worker, rule: str, what: str
) -> None:
    chain = "{ type filter hook prerouting priority -310 ; }"
    for line in ("add table ip native", f"add chain ip native it {chain}"):
        told.lab["worker"].run(["nft", *line.split()])
    said, _ = judged(told, f"add rule ip native it {rule}")
    assert said == f"cannot be judged: nft chain it of table ip native {what}: it is not judged"
