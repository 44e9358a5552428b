"""What the DaemonSet allows the agent's container is enough: two capabilities, nothing to write to but the lock."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import kvctl
from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.demo import MANIFEST
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import probe
from kvctl.model.net import Family
from tests.deploy.reading import BASE, daemonset, pod_spec

V4 = STANDARD[Family.IPV4]
# Everything that is mounted becomes read-only, but for what a container has of its own.
_READ_ONLY = (
    "findmnt --noheadings --raw --output TARGET | grep -vE '^/(proc|sys|dev)(/|$)' |"
    ' while read -r where; do mount -o remount,bind,ro "$where"; done; '
    "if touch /written; then exit 99; fi 2>/dev/null; "
)


def confined(lab: Lab, *arguments: str, stdin: str | None = None) -> proc.Completed:
    """kvctl on the worker, as the DaemonSet's container is confined."""
    (container,) = pod_spec(daemonset(BASE))["containers"]
    capabilities = ",".join(
        f"+{name.lower()}" for name in container["securityContext"]["capabilities"]["add"]
    )
    drop = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all"]
    command = [*drop, sys.executable, "-m", "kvctl", *arguments]
    return lab.worker.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            _READ_ONLY + 'exec "$@"',
            "sh",
            *command,
        ],
        stdin=stdin,
        env={"PYTHONPATH": str(Path(kvctl.__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.fixture(autouse=True)
def _lock_file_there_already() -> None:
    """FileOrCreate in the DaemonSet: kubelet makes the file, iptables only opens it."""
    Path(os.environ["XTABLES_LOCKFILE"]).touch()


def test_rules_are_written_and_removed_with_what_the_daemonset_allows(lab: Lab) -> None:
    flag = "--nftables" if lab.topology.backend == "nft" else "--no-nftables"
    with Echo(lab.outside, ports=[5060]):
        done = confined(lab, "egress", "apply", "--node", "worker", flag, "-f", "-", stdin=MANIFEST)
        assert (done.status, "added" in done.stdout) == (0, True), done.stderr
        seen = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        assert seen is not None
        assert seen.source == V4.vip
        assert confined(lab, "egress", "list").stdout.count("sip/sip-client") == 1
        done = confined(lab, "egress", "flush", "--all")
        assert (done.status, "removed" in done.stdout) == (0, True), done.stderr
        again = probe(lab.pod, destination=V4.outside_eth1, port=5060)
        assert again is not None
        assert again.source == V4.worker_eth1


def test_without_a_capability_it_is_said_what_is_missing(lab: Lab) -> None:
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "kvctl"]
    env = {"PYTHONPATH": str(Path(kvctl.__file__).parent.parent)}
    done = lab.worker.run([*bare, "egress", "apply", "--node", "worker", "-f", "-"], stdin=MANIFEST, env=env)
    assert done.status == 4, done.stderr
    assert "Hint: " in done.stderr
