"""`kvctl doctor` as a program: its forms of output, its exit status, and what it can do without root."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

import kvctl
from kvctl import proc
from kvctl.lab.netns import Namespace
from tests.doctor.host import prepare
from tests.waiting import heard

FITTING = ("--pod-cidr", "10.244.0.0/16", "--service-cidr", "10.96.0.0/12")
_OTHER_USER = (
    "setpriv",
    "--reuid",
    "65534",
    "--clear-groups",
    "--inh-caps",
    "-all",
    "--ambient-caps",
    "-all",
)
_WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
_WITHOUT_NET_RAW = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
_WITHOUT_SYS_ADMIN = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")


@pytest.fixture
def host(namespace: Namespace) -> Namespace:
    prepare(namespace)
    return namespace


def doctor(host: Namespace, *arguments: str, before: Sequence[str] = ()) -> proc.Completed:
    """The command, as a process in the host's namespace."""
    return host.run([*before, sys.executable, "-m", "kvctl", "doctor", *arguments])


def test_the_first_line_is_the_verdict_and_all_is_told(host: Namespace) -> None:
    done = doctor(host, *FITTING)
    assert (done.status, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first == "nothing found that keeps egress from working"
    assert all(line.startswith("fine  ") for line in rest)


def test_a_problem_comes_first_with_what_was_seen_and_what_mends_it(host: Namespace) -> None:
    host.write_sysctls({"ipv4/ip_forward": "0"})
    done = doctor(host, *FITTING)
    assert done.status == 1
    first, *rest = done.stdout.splitlines()
    assert first == "this host forwards no ipv4 packets: pods reach nothing outside of it"
    assert rest[0].split(maxsplit=2) == ["failure", "sysctl", first]
    assert rest[1].strip() == "seen: net/ipv4/ip_forward is 0"
    assert rest[2].strip() == "mend: sysctl -w net/ipv4/ip_forward=1"


def test_json_and_yaml_tell_the_same(host: Namespace) -> None:
    host.write_sysctls({"ipv4/ip_forward": "0"})
    done = doctor(host, *FITTING, "-o", "json")
    document = json.loads(done.stdout)
    assert done.status == 1
    assert document["schemaVersion"] == 1
    assert document["verdict"] == document["checks"][0]["message"]
    assert set(document["checks"][0]) == {"check", "level", "message", "evidence", "mend"}
    told = yaml.safe_load(doctor(host, *FITTING, "-o", "yaml").stdout)
    assert told["checks"][0] == document["checks"][0]


def test_wide_shows_what_was_read_of_all(host: Namespace) -> None:
    assert "seen: net/ipv4/ip_forward is 1" in doctor(host, *FITTING, "-o", "wide").stdout


def on_a_terminal(host: Namespace, *, columns: int, env: Mapping[str, str]) -> list[str]:
    """The lines that a terminal of this width is sent."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    argv = host.argv([sys.executable, "-m", "kvctl", "doctor"])
    with subprocess.Popen(argv, stdout=end, env={**os.environ, "TERM": "xterm", **env}):
        os.close(end)
        sent = b""
        while part := heard(screen):
            sent += part
    os.close(screen)
    return sent.decode("ascii").replace("\r", "").splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_lines_fit_and_levels_have_colours(host: Namespace, columns: int) -> None:
    plain = on_a_terminal(host, columns=columns, env={"NO_COLOR": "1"})
    # The first line is a sentence that the terminal may break.
    assert max(map(len, plain[1:])) <= columns
    assert not any("\x1b" in line for line in plain)
    coloured = on_a_terminal(host, columns=columns, env={"NO_COLOR": ""})
    assert [re.sub(r"\x1b\[[0-9]*m", "", line) for line in coloured] == plain
    assert any(line.startswith("\x1b[32mfine\x1b[0m") for line in coloured)


def test_a_source_tells_the_ranges(host: Namespace, tmp_path: Path) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "worker"},
        "spec": {"podCIDRs": ["10.42.0.0/24"]},
    }
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps(node), encoding="utf-8")
    done = doctor(host, "--node", "worker", "-f", str(path))
    assert done.stdout.startswith(
        "pods are in 10.244.1.0/24, outside the pod CIDR 10.42.0.0/24 (podCIDRs of the Nodes)"
    )


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "phone", "namespace": "default", "annotations": {"kube-vip.io/egress": "true"}},
    "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"app": "phone"}},
    "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.245"}]}},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "phone-0", "namespace": "default", "labels": {"app": "phone"}},
    "spec": {},
    "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}]},
}


def test_rules_that_a_source_wants_and_the_command_that_writes_them(host: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "my phone.json"
    path.write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": [SERVICE, POD]}), encoding="utf-8"
    )
    there = ("env", "-C", str(tmp_path), f"PYTHONPATH={Path(kvctl.__file__).parents[1]}")
    done = doctor(host, *FITTING, "-f", path.name, before=there)
    assert done.status == 1, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "default/phone (ipv4): its rules are wanted here and missing"
    mend = rest[1].strip().removeprefix("mend: ")
    assert mend.startswith("kvctl egress apply -f 'my phone.json' --pod-cidr 10.244.0.0/16")
    applied = host.run([*there, "sh", "-c", mend.replace("kvctl", f"{sys.executable} -m kvctl", 1)])
    assert applied.status == 0, applied.stderr
    assert doctor(host, *FITTING, "-f", str(path)).status == 0
    assert host.run(["iptables-nft", "-t", "nat", "-F"]).status == 0
    flushed = doctor(host, *FITTING)
    assert flushed.stdout.startswith("kvctl's chains of nat (ipv4) are empty: somebody has flushed the table")
    assert "mend: kvctl egress apply -f FILE --pod-cidr 10.244.0.0/16" in flushed.stdout


def test_a_cluster_that_does_not_answer_keeps_nobody_from_looking(host: Namespace, tmp_path: Path) -> None:
    done = doctor(host, *FITTING, "--kubeconfig", str(tmp_path / "config"))
    assert done.status == 0
    assert done.stdout.splitlines()[0].startswith(
        "nothing found that keeps egress from working, but: cannot read the kubeconfig"
    )
    assert "programs" in done.stdout


def test_without_root_it_does_what_it_can(host: Namespace) -> None:
    host.write_sysctls({"ipv4/ip_forward": "0"})
    done = doctor(host, *FITTING, "--nftables", before=_OTHER_USER)
    assert done.status == 4, done.stderr
    assert done.stdout.startswith("this host forwards no ipv4 packets")
    assert "not run as root: what takes CAP_NET_ADMIN was not looked at" in done.stdout


def test_root_without_the_capability_is_told_so(host: Namespace) -> None:
    done = doctor(host, *FITTING, "--nftables", before=_WITHOUT_NET_ADMIN)
    assert done.status == 4
    assert done.stdout.startswith(
        "rules can be neither read nor changed: this process has no CAP_NET_ADMIN\n"
    )


@pytest.mark.parametrize(
    ("flag", "status", "text"),
    [
        ("--nftables", 0, "VIPs cannot be announced (serviceElection, --with-vip)"),
        ("--no-nftables", 1, "iptables-legacy cannot work: this process has no CAP_NET_RAW"),
    ],
)
def test_without_raw_sockets(host: Namespace, flag: str, status: int, text: str) -> None:
    done = doctor(host, *FITTING, flag, before=_WITHOUT_NET_RAW)
    assert text in done.stdout.splitlines()[0]
    assert done.status == status


def test_in_a_container_the_kernel_is_asked(host: Namespace) -> None:
    done = doctor(host, *FITTING, "--nftables", "-o", "wide", before=_WITHOUT_SYS_ADMIN)
    assert done.stdout.startswith("nothing found that keeps egress from working\n")
    assert "asked of nf_tables, for lack of CAP_SYS_ADMIN" in done.stdout


def test_in_a_container_the_legacy_back_end_cannot_be_asked(host: Namespace) -> None:
    done = doctor(host, *FITTING, "--no-nftables", before=_WITHOUT_SYS_ADMIN)
    assert done.stdout.splitlines()[0].endswith("; 1 check could not tell")
    assert "that takes CAP_SYS_ADMIN" in done.stdout


def test_help_says_what_the_exit_status_means(host: Namespace) -> None:
    assert "4 where the rules could not be read at all" in " ".join(doctor(host, "--help").stdout.split())
