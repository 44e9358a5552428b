"""`kvctl egress trace` as it is called: its answer, its exit status, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kvctl.cli import main as cli
from kvctl.errors import ClusterError, InputError, UsageError
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.traffic import Connection
from kvctl.model.net import Family
from tests.apiserver import serving
from tests.builders import service
from tests.conftest import MakeLab
from tests.kernel.node import VIPS, Worker, lab_pod

POD, OUTSIDE = "10.0.0.1", "192.168.0.250"


def trace(lab: Lab, *arguments: str) -> int:
    """The exit status of the command on the worker of a lab."""
    with lab["worker"].entered():
        return cli._invoke(["egress", "trace", *arguments])


def test_the_first_line_is_the_answer_and_the_way_follows(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    Worker(lab).apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    assert trace(lab, "--from", POD, "--to", f"{OUTSIDE}:5060", "--proto", "udp") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == (
        f"udp from {POD} to {OUTSIDE}:5060: leaves by eth1 with 192.168.0.245, the VIP of sip/sip-client"
    )
    assert any("-A POSTROUTING -j KVCTL-EGRESS" in line for line in rest)
    assert any(line.endswith("-p udp -m udp --dport 5060 -j SNAT --to-source 192.168.0.245") for line in rest)
    assert trace(lab, "--from", "fd00:10::1", "--to", "[2001:db8:1::250]:5060", "--proto", "udp") == 0
    assert "leaves by eth1 with 2001:db8:1::245" in capsys.readouterr().out
    assert trace(lab, "--from", POD, "--to", "172.16.0.2", "--proto", "icmp") == 0
    assert "stays here: 172.16.0.2 is an address of this node" in capsys.readouterr().out
    assert trace(lab, "--from", POD, "--to", OUTSIDE, "--proto", "udp") == 1
    assert "the port is not given" in capsys.readouterr().out.splitlines()[0]


def test_lines_fit_a_terminal_and_are_whole_in_a_pipe(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--from", POD, "--to", f"{OUTSIDE}:443", "--proto", "udp")
    assert trace(lab, *arguments) == 0
    whole = capsys.readouterr().out.splitlines()[0]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert trace(lab, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines[: next(at for at, line in enumerate(lines) if line.startswith("  the rules"))]
    assert len(first) > 1
    assert max(map(len, first)) <= 80
    assert " ".join(line.strip() for line in first) == whole
    assert max(map(len, lines)) <= 80
    continued = [line for line in lines if line.startswith(" " * 26) and line[26] != " "]
    assert [line.strip() for line in continued] == ["MASQUERADE"]
    monkeypatch.setenv("COLUMNS", "60")
    with (
        Echo(lab["outside"], ports=(443,)),
        Connection(lab["pod"], destination=OUTSIDE, port=443) as connection,
    ):
        assert connection.ask() is not None
        assert trace(lab, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(at for at, line in enumerate(lines) if "to the same destination" in line)
    assert lines[at].startswith("  1 connection to the same destination, which goes on as it")
    assert lines[at + 1].startswith("      ")
    assert lines[at + 1][6] != " "
    assert max(map(len, lines)) <= 60


def test_json_has_the_same_and_what_cannot_be_judged_is_status_1(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(lab)
    arguments = ("--from", POD, "--to", f"{OUTSIDE}:443", "-o", "json")
    assert trace(lab, *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schemaVersion"], told["judged"], told["verdict"]) == (1, True, "translated")
    assert (told["source"], told["interface"]) == ("192.168.0.240", "eth1")
    assert told["decidedBy"]["rule"].endswith("-j MASQUERADE")
    assert told["steps"][-1] == told["decidedBy"]
    assert trace(lab, *arguments[:-2], "-o", "wide") == 0
    assert '-m comment --comment "the pod network"' in capsys.readouterr().out
    chance = (
        "-m",
        "comment",
        "--comment",
        "a\n\x1b[31mb",
        "-m",
        "statistic",
        "--mode",
        "random",
        "--probability",
        "0.5",
    )
    worker.iptables(Family.IPV4, "-t", "nat", "-I", "POSTROUTING", "1", *chance, "-j", "ACCEPT")
    assert trace(lab, *arguments) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["judged"], told["verdict"], told["source"]) == (False, None, None)
    assert "chance decides" in told["unknown"][0]
    assert trace(lab, *arguments[:-2], "-o", "wide") == 1
    assert "a\\n\\x1b[31mb" in capsys.readouterr().out


def test_silence_where_the_vip_is_not_is_told_with_its_service(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = service(vip="192.168.0.99", ports="udp:5060", annotations={"kvctl.io/without-vip": "drop"})
    Worker(lab).apply(silent, lab_pod())
    assert trace(lab, "--from", POD, "--to", f"{OUTSIDE}:5060", "--proto", "udp") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "is dropped in mangle KVCTL-DROP-" in first
    assert "sip/sip-client wants silence where its VIP is not" in first
    assert trace(lab, "--from", POD, "--to", f"{OUTSIDE}:5061", "--proto", "udp") == 0
    assert "leaves by eth1 with 192.168.0.240" in capsys.readouterr().out


def test_the_connection_that_is_there_counts(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    worker = Worker(lab)
    with (
        Echo(lab["outside"], ports=(5060,)),
        Connection(lab["pod"], destination=OUTSIDE, port=5060) as connection,
    ):
        before = connection.ask()
        assert before is not None
        worker.apply(service(vip=VIPS), lab_pod(), keep_connections=True)
        arguments = ("--from", POD, "--to", f"{OUTSIDE}:5060", "--proto", "udp")
        assert trace(lab, *arguments, "--source-port", str(connection.local_port)) == 0
        first = capsys.readouterr().out.splitlines()[0]
        after = connection.ask()
        assert after is not None
        assert after.source == before.source == "192.168.0.240"
        assert "leaves by eth1 with 192.168.0.240, as the connection that it is part of began" in first
        assert trace(lab, *arguments) == 0
        text = capsys.readouterr().out
        assert "leaves by eth1 with 192.168.0.245, the VIP of sip/sip-client" in text.splitlines()[0]
        assert (
            "  1 connection to the same destination, which goes on as it began (--source-port looks at one)"
            in text
        )


def test_a_native_nft_chain_that_translates_first_gives_no_verdict(
    make_lab: object, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(backend="nft")  # type: ignore[operator]
    Worker(lab).apply(service(vip=VIPS), lab_pod())
    chain = ("type nat hook postrouting priority 50;", "ip saddr 10.0.0.0/16 masquerade")
    native = "\n".join(("table ip other {", "chain c {", *chain, "}", "}", ""))
    assert lab["worker"].run(["nft", "-f", "-"], stdin=native).status == 0
    assert trace(lab, "--from", POD, "--to", f"{OUTSIDE}:443") == 1
    caught = capsys.readouterr()
    assert "cannot be judged: nft chain c of table ip other" in caught.out.splitlines()[0]


def test_what_ipvs_takes_over_gives_no_verdict(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    # kube-proxy binds ClusterIPs to it; what kind of interface it is does not matter here.
    lab["worker"].batch(
        [
            "link add kube-ipvs0 type veth peer name other-end",
            "link set kube-ipvs0 up",
            "addr add 10.96.0.99/32 dev kube-ipvs0",
        ]
    )
    assert trace(lab, "--from", POD, "--to", "10.96.0.99:443") == 1
    assert "10.96.0.99 is on kube-ipvs0" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", OUTSIDE), "neither --from nor --pod is given"),
        (("--from", POD, "--pod", "sip/a", "--to", OUTSIDE), "--from and --pod are both given"),
        (("--from", POD, "--to", "127.0.0.1:5060"), "127.0.0.1 is the loopback address: what a pod sends"),
        (("--from", "::1", "--to", "2001:db8::1"), "::1 is the loopback address"),
        (("--from", POD, "--to", "0.0.0.0"), "0.0.0.0 is no host's address"),
        (("--from", "pod", "--to", OUTSIDE), '--from "pod" is not an IP address'),
        (("--from", POD, "--to", f"{OUTSIDE}:0"), "the port is not a number from 1 to 65535"),
        (("--from", POD, "--to", f"{OUTSIDE}:x"), "the port is not a number from 1 to 65535"),
        (("--from", POD, "--to", "[2001:db8::1"), "is not an IP address"),
        (("--from", POD, "--to", "2001:db8::1"), "are not of one address family"),
        (("--from", POD, "--to", f"{OUTSIDE}:443", "--proto", "icmp"), "icmp has no ports"),
        (("--from", POD, "--to", "224.0.0.1"), "224.0.0.1 is a multicast address"),
        (("--from", "fd00:10::1", "--to", "[ff02::1]:53"), "ff02::1 is a multicast address"),
        (("--from", "fd00:10::1", "--to", "fe80::77"), "fe80::77 is a link-local address"),
        (("--from", "fe80::1", "--to", "2001:db8::1"), "fe80::1 is a link-local address"),
        (("--pod", "sip-client-0", "--to", OUTSIDE), '--pod "sip-client-0" is not a pod\'s name'),
        (("--pod", "sip/", "--to", OUTSIDE), '--pod "sip/" is not a pod\'s name'),
    ],
)
def test_what_is_no_packet_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as error:
        cli._invoke(["egress", "trace", *arguments])
    assert says in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("destination", "hint"),
    [
        ("registrar.example.com:5060", "no name server is asked"),
        ("localhost", "no name server is asked"),
        ("fe80::1%eth0", "leave the zone (%...) away"),
        ("[fe80::1%eth0]:53", "leave the zone (%...) away"),
        ("10.0.0.256", "as in 10.0.0.1"),
    ],
)
def test_a_destination_that_is_no_address_has_its_hint(destination: str, hint: str) -> None:
    with pytest.raises(UsageError, match="is not an IP address") as error:
        cli._invoke(["egress", "trace", "--from", POD, "--to", destination])
    assert hint in (error.value.hint or "")


def test_what_is_assumed_without_a_protocol_is_said(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(lab, "--from", POD, "--to", f"{OUTSIDE}:443") == 0
    said = capsys.readouterr()
    assert said.out.startswith("tcp from ")
    assert "Note: no --proto is given: this is about tcp" in said.err
    assert trace(lab, "--from", POD, "--to", f"{OUTSIDE}:443", "--proto", "tcp") == 0
    assert "--proto" not in capsys.readouterr().err


def test_the_node_itself_is_no_pod(lab: Lab) -> None:
    with pytest.raises(InputError, match="is an address of this node, not of a pod"):
        trace(lab, "--from", "172.16.0.2", "--to", OUTSIDE)


POD_FILE = """\
apiVersion: v1
kind: Pod
metadata: {namespace: sip, name: sip-client-0}
spec: {nodeName: worker}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
"""


def test_a_pod_may_be_named_where_its_address_is_known(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pods.yaml"
    file.write_text(POD_FILE)
    named = ("--pod", "sip/sip-client-0", "-f", str(file), "--proto", "udp")
    assert trace(lab, *named, "--to", f"{OUTSIDE}:5060") == 0
    assert capsys.readouterr().out.startswith(f"udp from {POD} to {OUTSIDE}:5060: leaves by eth1")
    with pytest.raises(InputError, match="sip/sip-client-0 has no IPv6 address"):
        trace(lab, *named, "--to", "2001:db8:1::250")
    with pytest.raises(InputError, match='the pod "sip/other" is not there'):
        trace(lab, "--pod", "sip/other", "-f", str(file), "--to", OUTSIDE)
    file.write_text(POD_FILE.replace("Running", "Succeeded"))
    with pytest.raises(InputError, match='the pod "sip/sip-client-0" has finished'):
        trace(lab, *named, "--to", OUTSIDE)
    file.write_text(POD_FILE.replace("nodeName: worker", "nodeName: worker, hostNetwork: true"))
    with pytest.raises(InputError, match="sip/sip-client-0 is on the host network"):
        trace(lab, *named, "--to", OUTSIDE)


def test_without_a_cluster_the_rules_in_the_kernel_tell_whose_address_it_is(
    make_lab: MakeLab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    lab = make_lab(backend="nft")
    named = ("--pod", "sip/sip-client-0", "--to", f"{OUTSIDE}:5060", "--proto", "udp")
    with pytest.raises(ClusterError) as error:
        trace(lab, *named)
    assert "give its address with --from" in (error.value.hint or "")
    Worker(lab).apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    assert trace(lab, *named) == 0
    told = capsys.readouterr()
    assert told.out.startswith(
        f"udp from {POD} to {OUTSIDE}:5060: leaves by eth1 with 192.168.0.245, the VIP"
    )
    assert f"by the kernel's rules sip/sip-client-0 is {POD}" in told.err
    assert trace(lab, *named[:3], "[2001:db8:1::250]:5060", *named[4:]) == 0
    assert "udp from fd00:10::1 to" in capsys.readouterr().out
    with pytest.raises(ClusterError):
        trace(lab, "--pod", "other/sip-client-0", *named[2:])


def test_the_cluster_is_asked_for_one_pod_and_lists_nothing(
    make_lab: MakeLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(backend="nft")
    with lab["worker"].entered(), serving() as server:
        server.put("pods", yaml.safe_load(POD_FILE.replace("]}", ", {ip: 'fd00:10::1'}]}")))
        named = ("--kubeconfig", str(server.kubeconfig(tmp_path / "config")), "--proto", "udp", "--pod")
        assert trace(lab, *named, "sip/sip-client-0", "--to", f"{OUTSIDE}:5060") == 0
        assert capsys.readouterr().out.startswith(f"udp from {POD} to {OUTSIDE}:5060: leaves by eth1")
        assert trace(lab, *named, "sip/sip-client-0", "--to", "[2001:db8:1::250]:5060") == 0
        assert capsys.readouterr().out.startswith("udp from fd00:10::1 to [2001:db8:1::250]:5060: leaves by")
        with pytest.raises(InputError, match='the pod "sip/none" is not there'):
            trace(lab, *named, "sip/none", "--to", OUTSIDE)
        server.forbid("pods")
        with pytest.raises(ClusterError) as error:
            trace(lab, *named, "sip/sip-client-0", "--to", OUTSIDE)
        assert "give its address with --from" in (error.value.hint or "")
        assert {request.path for request in server.requests} == {
            "/api/v1/namespaces/sip/pods/sip-client-0",
            "/api/v1/namespaces/sip/pods/none",
        }
