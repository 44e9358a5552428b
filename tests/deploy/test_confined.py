"""What the DaemonSet allows the agent's container is enough, on both back ends, with packets."""

from __future__ import annotations

import pytest

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.demo import MANIFEST
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.deploy.confining import KVCTL, confined, environment, make_lock_file, powerless

V4 = STANDARD[Family.IPV4]


@pytest.fixture(autouse=True)
def _lock_file() -> None:
    make_lock_file()


def run(lab: Lab, argv: list[str], *, stdin: str | None = None) -> proc.Completed:
    """On the worker."""
    return lab.worker.run(argv, stdin=stdin, env=environment())


def test_rules_are_written_and_removed_with_what_the_daemonset_allows(lab: Lab) -> None:
    flag = "--nftables" if lab.topology.backend == "nft" else "--no-nftables"
    apply = confined(*KVCTL, "egress", "apply", "--node", "worker", flag, "-f", "-")
    with Echo(lab.outside, ports=[5060]):
        done = run(lab, apply, stdin=MANIFEST)
        assert (done.status, "added" in done.stdout) == (0, True), done.stderr
        seen = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        assert seen is not None
        assert seen.source == V4.vip
        assert "sip/sip-client" in run(lab, confined(*KVCTL, "egress", "list")).stdout
        done = run(lab, confined(*KVCTL, "egress", "flush", "--all"))
        assert (done.status, "removed" in done.stdout) == (0, True), done.stderr
        again = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        assert again is not None
        assert again.source == V4.worker_eth1


def test_without_a_capability_it_is_said_what_is_missing(lab: Lab) -> None:
    done = run(lab, powerless(*KVCTL, "egress", "apply", "--node", "worker", "-f", "-"), stdin=MANIFEST)
    assert done.status == 4, done.stderr
    assert "Hint: " in done.stderr
