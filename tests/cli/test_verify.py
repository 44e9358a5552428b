"""`kvctl egress verify` as a program: from a pod of the lab to an echo outside, on the real kernel."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

from kvctl.cli import main as cli
from kvctl.errors import InputError, UsageError
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family, parse_address
from kvctl.policy.layout import DROPPING, service_chain
from tests.builders import networks, pod, ref, service
from tests.conftest import MakeLab
from tests.kernel.node import SECOND_VIPS, VIPS, Worker, lab_pod
from tests.waiting import heard, until

POD, OUTSIDE, VIP, NODE = "10.0.0.1", "192.168.0.250", "192.168.0.245", "192.168.0.240"
QUICK = ("--interval", "0.01", "--count", "3")


@pytest.fixture
def worker(lab: Lab) -> Worker:
    return Worker(lab)


@pytest.fixture
def echo(lab: Lab) -> Iterator[Echo]:
    with Echo(lab["outside"], ports=(443, 5060)) as found:
        yield found


class Verify:
    """The command, on the worker of a lab."""

    def __init__(self, lab: Lab, captured: pytest.CaptureFixture[str]) -> None:
        self._lab = lab
        self._captured = captured

    def text(self, *arguments: str, status: int, said: str = "") -> str:
        """What it prints; `said`: as messages."""
        with self._lab["worker"].entered():
            ended = cli._invoke(["egress", "verify", *arguments])
        out, err = self._captured.readouterr()
        assert (ended, err) == (status, said), out
        return out

    def printed(self) -> tuple[str, str]:
        """What has been printed since: data, messages."""
        out, err = self._captured.readouterr()
        return out, err

    def document(self, *arguments: str, status: int) -> dict[str, Any]:
        """The same as the document it prints."""
        document = json.loads(self.text(*arguments, "-o", "json", status=status))
        assert document["schemaVersion"] == 1
        assert isinstance(document, dict)
        return document


@pytest.fixture
def verify(lab: Lab, capsys: pytest.CaptureFixture[str]) -> Verify:
    return Verify(lab, capsys)


def target(family: Family, port: int) -> str:
    address = STANDARD[family].outside_eth1
    return f"[{address}]:{port}" if family is Family.IPV6 else f"{address}:{port}"


def test_right_with_the_rules_and_wrong_without(
    worker: Worker, echo: Echo, verify: Verify, family: Family
) -> None:
    who = STANDARD[family]
    asked = ("--from", who.pod, "--to", target(family, 5060), *QUICK)
    worker.apply(service(vip=VIPS, ports="udp:5060,tcp:5060"), lab_pod())
    told = verify.document(*asked, status=0)
    assert (told["verdict"], told["next"]) == ("right", [])
    assert {each["protocol"]: each["seen"][0]["source"] for each in told["items"]} == {
        "udp": who.vip,
        "tcp": who.vip,
    }
    assert all((each["right"], each["asked"]) == (3, 3) for each in told["items"])
    worker.flush()
    told = verify.document(*asked, "--expect", who.vip, status=1)
    assert told["sentence"].startswith(
        f"wrong: 6 of 6 were seen as {who.worker_eth1} (this node's address on eth1) instead of {who.vip}: "
    )
    assert "leaves by eth1 with" in told["why"][0]
    assert told["next"][0].startswith("see by which rule: kvctl egress trace --from")


def test_a_service_is_asked_from_each_of_its_pods_and_the_answer_comes_first(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    worker.apply(
        service(vip=VIPS, ports="udp:5060"), lab_pod(), lab_pod("sip/sip-client-1", namespace="peer")
    )
    out = verify.text("-n", "sip", "sip-client", "--to", target(Family.IPV4, 5060), *QUICK, status=0)
    first, head, *rows = out.splitlines()
    assert first == (
        f"right: all 12 as expected: {VIP}, the VIP of sip/sip-client; "
        "not the VIP: sip/sip-client does not rewrite this"
    )
    assert head.split() == ["POD", "FROM", "PROTO", "EXPECTED", "SEEN", "RIGHT", "WRONG", "LOST"]
    assert [row.split()[:3] for row in rows[:4]] == [
        ["sip-client-0", POD, "udp"],
        ["sip-client-0", POD, "tcp"],
        ["sip-client-1", "10.0.0.2", "udp"],
        ["sip-client-1", "10.0.0.2", "tcp"],
    ]
    assert "because sip/sip-client rewrites only udp:5060" in rows[4]
    wide = verify.text("sip/sip-client", "--to", target(Family.IPV4, 5060), *QUICK, "-o", "wide", status=0)
    assert wide.splitlines()[1].split()[-3:] == ["TO", "LOSSES", "BECAUSE"]
    assert wide.splitlines()[2].endswith(f" {OUTSIDE}:5060  -       {VIP}, the VIP of sip/sip-client")
    assert echo.sources(protocol="udp", port=5060) == {VIP}
    assert echo.sources(protocol="tcp", port=5060) == {NODE}
    with pytest.raises(InputError, match="sip/other has no egress rules on this node"):
        verify.text("sip/other", "--to", OUTSIDE, status=1)


def test_the_node_is_right_where_the_service_does_not_rewrite(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    family = worker.family_of_backend()
    who = STANDARD[family]
    worker.apply(
        service(vip=VIPS, ports="udp:5060", denied="192.168.0.250/32,2001:db8:1::250/128"), lab_pod()
    )
    for port in (443, 5060):
        told = verify.document("--from", who.pod, "--to", target(family, port), *QUICK, status=0)
        assert {each["expected"]["kind"] for each in told["items"]} == {"not-vip"}
        assert {each["seen"][0]["source"] for each in told["items"]} == {who.worker_eth1}
    # Somebody else's rule gives it the VIP all the same.
    worker.iptables(
        family, "-t", "nat", "-I", "POSTROUTING", "-s", who.pod, "-j", "SNAT", "--to-source", who.vip
    )
    told = verify.document("--from", who.pod, "--to", target(family, 443), *QUICK, status=1)
    assert told["sentence"].startswith(f"wrong: 6 of 6 were seen as {who.vip} (the VIP of sip/sip-client): ")
    assert told["sentence"].endswith("expected: not the VIP: sip/sip-client does not rewrite this")


def test_of_two_services_each_has_its_own_and_an_excluded_network_neither(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    family = worker.family_of_backend()
    who, second = STANDARD[family], SECOND_VIPS[family is Family.IPV6]
    worker.bind(*SECOND_VIPS)
    both = (
        service("sip/ports", vip=VIPS, ports="udp:5060", selector={"app": "a"}),
        service("sip/all", vip=SECOND_VIPS, selector={"app": "a"}),
        lab_pod(app="a"),
    )
    worker.apply(*both)
    asked = ("--from", who.pod, "--to", target(family, 5060), *QUICK)
    told = verify.document(*asked, status=0)
    assert {each["protocol"]: each["expected"]["service"] for each in told["items"]} == {
        "udp": "sip/ports",
        "tcp": "sip/all",
    }
    assert {each["seen"][0]["source"] for each in told["items"]} == {who.vip, second}
    told = verify.document(*asked, "--expect", second, status=1)
    assert told["sentence"].startswith(
        f"wrong: 3 of 6 were seen as {who.vip} (the VIP of sip/ports) instead of {second}: udp "
    )
    excluding = networks(
        *(f"{each.outside_eth1}/{128 if ':' in each.vip else 32}" for each in STANDARD.values())
    )
    worker.told_to(exclude_cidrs=excluding).apply(*both)
    told = verify.document(*asked, status=0)
    assert {each["expected"]["kind"] for each in told["items"]} == {"not-vip"}
    assert "which is never rewritten to" in told["why"][0]


def test_pods_that_cannot_be_found_are_told_and_the_others_are_asked(
    lab: Lab, worker: Worker, echo: Echo
) -> None:
    gone = pod("sip/sip-client-9", "10.0.0.99")
    worker.apply(service(vip=VIPS), lab_pod(), gone)
    done = lab.kvctl("egress", "verify", "sip/sip-client", "--to", target(Family.IPV4, 5060), *QUICK)
    assert done.status == 4
    assert done.stdout.startswith("right: all 6 as expected: ")
    assert done.stderr.startswith("Error: no network namespace on this node has 10.0.0.99\n")


def test_what_another_rule_takes_first_is_wrong_and_traced(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    worker.iptables(Family.IPV4, "-t", "nat", "-I", "POSTROUTING", "-s", POD, "-j", "MASQUERADE")
    told = verify.document("--from", POD, "--to", target(Family.IPV4, 443), *QUICK, status=1)
    assert told["sentence"].startswith(
        f"wrong: 6 of 6 were seen as {NODE} (this node's address on eth1) instead of {VIP}, the VIP of sip/sip-client: "
    )
    assert "MASQUERADE (another program's), because its rule is asked before kvctl's" in told["why"][0]


def test_lost_is_told_apart_from_wrong_and_from_nobody_listening(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    asked = ("--from", POD, *QUICK, "--timeout", "0.3")
    told = verify.document(*asked, "--to", target(Family.IPV4, 5061), status=1)
    assert told["sentence"] == (
        f"lost: 6 of 6 had no answer: udp from {POD} (sip-client-0) to {OUTSIDE}:5061: refused"
    )
    assert told["next"] == ["nothing listens there: on that host, kvctl egress echo --port 5061"]
    worker.iptables(Family.IPV4, "-I", "FORWARD", "-p", "udp", "--dport", "5060", "-j", "DROP")
    told = verify.document(*asked, "--to", target(Family.IPV4, 5060), status=1)
    by = {each["protocol"]: (each["right"], each["wrong"], each["lost"]) for each in told["items"]}
    assert by == {"udp": (0, 0, 3), "tcp": (3, 0, 0)}
    assert told["sentence"].startswith("lost: 3 of 6 had no answer: udp ")
    assert "is dropped in filter FORWARD, by a DROP (another program's)" in told["why"][0]


def test_silence_is_right_where_the_service_wants_it(worker: Worker, echo: Echo, verify: Verify) -> None:
    silent = service(vip="192.168.0.99", ports="udp:5060", annotations={"kvctl.io/without-vip": "drop"})
    worker.apply(silent, lab_pod())
    asked = ("--from", POD, "--to", target(Family.IPV4, 5060), "--proto", "udp", *QUICK, "--timeout", "0.2")
    told = verify.document(*asked, status=0)
    assert told["sentence"].startswith("right: all 3 as expected: silence: sip/sip-client wants none of it")
    assert told["sentence"].endswith("; silence would be the same if no echo were there")
    worker.iptables(Family.IPV4, "-t", "mangle", "-F", "POSTROUTING")
    told = verify.document(*asked, status=1)
    assert told["sentence"].startswith(f"wrong: 3 of 3 were seen as {NODE}")


def test_silence_that_another_program_undoes_is_wrong_whether_it_is_answered_or_not(
    worker: Worker, verify: Verify
) -> None:
    worker.apply(service(vip="192.168.0.99", annotations={"kvctl.io/without-vip": "drop"}), lab_pod())
    worker.iptables(Family.IPV4, "-t", "mangle", "-I", "POSTROUTING", "-s", "10.0.0.0/16", "-j", "ACCEPT")
    asked = ("sip/sip-client", "--to", target(Family.IPV4, 5061), *QUICK, "--timeout", "0.2")
    told = verify.document(*asked, status=1)
    assert told["sentence"].startswith("wrong: 6 of 6 are let out by the rules here (refused): udp ")
    assert "leaves by eth1 with" in told["why"][0]
    assert told["next"][0].startswith("see by which rule: kvctl egress trace --from")
    outside = worker.lab["outside"]
    with outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((OUTSIDE, 5061))
        told = verify.document(*asked, "--proto", "udp", status=1)
        assert told["sentence"].startswith("wrong: 3 of 3 are let out by the rules here (no answer): udp ")
        assert mute.recv(2048).startswith(b"kvctl-ask/1 ")
    worker.iptables(Family.IPV4, "-t", "mangle", "-D", "POSTROUTING", "1")
    worker.iptables(Family.IPV4, "-A", "FORWARD", "-s", POD, "-j", "REJECT")
    told = verify.document(*asked, "--proto", "udp", status=1)
    assert told["sentence"].startswith(
        "wrong: 3 of 3 were answered (refused), so they went out unless a REJECT "
    )
    assert "in filter FORWARD, by a REJECT (another program's)" in told["why"][0]


def test_a_pod_that_can_send_nothing_is_not_silent_and_not_sent_to_the_echo(
    worker: Worker, verify: Verify
) -> None:
    worker.apply(service(vip="192.168.0.99", annotations={"kvctl.io/without-vip": "drop"}), lab_pod())
    worker.lab["pod"].batch(["route del default"])
    told = verify.document("sip/sip-client", "--to", target(Family.IPV4, 5060), *QUICK, status=1)
    assert told["sentence"].startswith(f"lost: 6 of 6 found no way there: udp from {POD} (sip-client-0) to ")
    assert told["next"][0].startswith("see whether the pod has a route (in its namespace: ip route get ")


def test_who_answers_within_the_pod_is_no_echo_outside(worker: Worker, verify: Verify) -> None:
    pod_space = worker.lab["pod"]
    pod_space.batch([f"addr add {OUTSIDE}/32 dev lo"])
    with Echo(pod_space, ports=(5060,)) as forger:
        asked = ("--from", POD, "--to", target(Family.IPV4, 5060), *QUICK, "--expect", POD)
        told = verify.document(*asked, status=1)
        assert forger.heard.total() == 0
    assert told["sentence"].startswith(
        "lost: 6 of 6 did not leave the pod, where the destination is an address, too: udp "
    )
    assert {str(each["losses"]) for each in told["items"]} == {"{'stays in the pod': 3}"}


def test_a_name_of_both_families_is_asked_by_the_one_of_the_source_that_is_expected(
    worker: Worker, echo: Echo, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    both = [parse_address(each.outside_eth1) for each in STANDARD.values()]
    monkeypatch.setattr("kvctl.cli.verify.resolve", lambda name: both)
    with worker.lab["worker"].entered():
        asked = ["sip/sip-client", "--to", "echo.example:5060", *QUICK, "--expect", VIP]
        assert cli._invoke(["egress", "verify", *asked, "-o", "json"]) == 0
    out, err = verify.printed()
    assert err == f"Note: {both[1]} is not asked: --expect {VIP} is of the other address family\n"
    assert {each["destination"] for each in json.loads(out)["items"]} == {OUTSIDE}
    monkeypatch.setattr("kvctl.cli.verify.resolve", lambda name: both[1:])
    with pytest.raises(InputError, match="is never seen at 2001:db8:1::250"):
        verify.text("--from", POD, "--to", "2001:db8:1::250", "--expect", VIP, status=1)


def test_a_pod_that_no_rules_name_has_nothing_to_be_right(worker: Worker, echo: Echo, verify: Verify) -> None:
    asked = ("--from", POD, "--to", target(Family.IPV4, 5060), "--proto", "udp", *QUICK)
    told = verify.document(*asked, status=1)
    assert told["items"][0]["expected"]["kind"] == "nothing"
    assert told["sentence"].endswith("expected: a VIP, but no Service's rules on this node name the pod")


def test_changed_rules_do_not_change_what_is_expected(worker: Worker, echo: Echo, verify: Verify) -> None:
    family = worker.family_of_backend()
    who = STANDARD[family]
    worker.apply(service(vip=VIPS), lab_pod())
    chain = next(
        line.split()[1]
        for line in worker.saved(family)
        if line.startswith("-A KVCTL-SVC-") and "SNAT" in line
    )
    worker.iptables(family, "-t", "nat", "-I", chain, "-j", "RETURN")
    told = verify.document("--from", who.pod, "--to", target(family, 5060), *QUICK, status=1)
    assert f"instead of {who.vip}, the VIP of sip/sip-client" in told["sentence"]


def test_a_flushed_chain_spares_nothing_it_is_broken(worker: Worker, echo: Echo, verify: Verify) -> None:
    family = worker.family_of_backend()
    who, chain = STANDARD[family], service_chain(ref("sip/sip-client"))
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    worker.iptables(family, "-t", "nat", "-F", chain)
    for whom in (("sip/sip-client",), ("--from", who.pod)):
        told = verify.document(*whom, "--to", target(family, 5060), *QUICK, status=1)
        assert told["sentence"].startswith(
            f"wrong: the rules of sip/sip-client are broken: {chain} is empty, somebody has flushed it; 6 of 6 "
        )
        assert {each["expected"]["kind"] for each in told["items"]} == {"broken"}
        assert f"{chain} is empty, somebody has flushed it" in told["why"][0]
        assert told["next"][0] == "kvctl egress apply mends it"


def test_flushed_ways_to_a_service_are_told_and_its_pods_known_by_what_is_behind_their_gates(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    family = worker.family_of_backend()
    who, empty = STANDARD[family], "KVCTL-EGRESS is empty, somebody has flushed it"
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    worker.iptables(family, "-t", "nat", "-F", "KVCTL-EGRESS")
    told = verify.document("--from", who.pod, "--to", target(family, 5060), *QUICK, status=1)
    assert told["sentence"].startswith("wrong: ")
    assert f"because {empty}" in told["why"][0]
    verify.text(
        "sip/sip-client",
        "--to",
        target(family, 5060),
        *QUICK,
        status=1,
        said=f"Warning: {empty}: not every pod is led to its Service; kvctl egress apply mends it\n",
    )
    behind = next(line.split()[1] for line in worker.saved(family) if line.startswith("-A KVCTL-TO-"))
    worker.iptables(family, "-t", "nat", "-F", behind)
    with pytest.raises(InputError) as error:
        verify.text("sip/sip-client", "--to", target(family, 5060), *QUICK, status=1)
    assert error.value.message == (
        f"sip/sip-client has rules on this node, but its pods are not led to them: {empty}"
    )
    assert "kvctl egress apply mends it" in (error.value.hint or "")
    told = verify.document("--from", who.pod, "--to", target(family, 5060), *QUICK, status=1)
    assert told["sentence"].endswith(f"name the pod: {empty}")
    assert f"because {empty}" in told["why"][0]


def test_a_flushed_chain_that_dropped_is_broken_too(worker: Worker, echo: Echo, verify: Verify) -> None:
    silent = service(vip="192.168.0.99", annotations={"kvctl.io/without-vip": "drop"})
    worker.apply(silent, lab_pod())
    chain = DROPPING.service_chain(ref("sip/sip-client"))
    worker.iptables(Family.IPV4, "-t", "mangle", "-F", chain)
    told = verify.document("sip/sip-client", "--to", target(Family.IPV4, 5060), *QUICK, status=1)
    assert told["sentence"].startswith(
        f"wrong: the rules of sip/sip-client are broken: {chain} is empty, somebody has flushed it; 6 of 6 were seen as"
    )


def test_a_service_of_which_nothing_was_rewritten_is_not_right(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    worker.apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    proved = (
        "not rewritten: sip/sip-client rewrites only udp:5060, so nothing was proved of its VIP; "
        f"ask there: --to {OUTSIDE}:5060 --proto udp"
    )
    told = verify.document(
        "sip/sip-client", "--to", target(Family.IPV4, 5060), "--proto", "tcp", *QUICK, status=1
    )
    assert (told["verdict"], told["sentence"]) == ("not rewritten", proved)
    out = verify.text("sip/sip-client", "--to", OUTSIDE, *QUICK, status=1)
    assert out.splitlines()[0] == proved
    assert out.splitlines()[-1] == (
        "on that host, kvctl egress echo --port 5060; "
        f"then here, kvctl egress verify sip/sip-client --to {OUTSIDE}:5060 --proto udp"
    )
    asked = ("sip/sip-client", "--to", target(Family.IPV4, 443), *QUICK)
    verify.document(*asked, "--expect", NODE, status=0)
    verify.document("--from", POD, *asked[1:], status=0)


def test_what_only_neighbours_remember_is_right_and_will_stop(
    make_lab: MakeLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(backend="nft")
    verify = Verify(lab, capsys)
    Worker(lab).apply(service(vip=VIPS), lab_pod())
    asked = ("sip/sip-client", "--to", target(Family.IPV4, 5060), *QUICK)
    with Echo(lab["outside"], ports=(5060,)):
        assert "will stop" not in verify.text(*asked, status=0)
        lab["worker"].batch([f"addr del {VIP}/32 dev eth1"])
        told = verify.document(*asked, status=0)
        assert told["sentence"] == (
            f"right: all 6 as expected: {VIP}, the VIP of sip/sip-client, "
            f"but no interface of this node has {VIP}: this will stop"
        )
        assert told["why"][0].startswith(f"the VIP {VIP} is on no interface of this node (put it there with")
        assert "will stop" not in verify.text(*asked, "--assume-vip", status=0)
        lab["worker"].batch([f"addr add {VIP}/32 dev lo"])
        assert "will stop" not in verify.text(*asked, status=0)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def descriptors(pid: int) -> set[str]:
    """What kinds of things a process has open."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        # A question may have ended meanwhile.
        with suppress(FileNotFoundError):
            found.add(os.readlink(each).partition(":")[0])
    return found


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def test_watching_tells_a_wrong_source_at_once_and_the_totals_at_the_end(
    worker: Worker, echo: Echo, verify: Verify
) -> None:
    lab = worker.lab
    worker.apply(service(vip=VIPS), lab_pod())
    asked = ("--from", POD, "--to", target(Family.IPV4, 5060), "--proto", "udp", "--interval", "0.02")
    running = lab.start_kvctl(
        "egress", "verify", *asked, "--watch", "--every", "0.1", at="worker", env={"PYTHONUNBUFFERED": "1"}
    )
    try:
        # At this rate two periods have passed by then.
        until(lambda: echo.heard.total() > 20, seconds=30)
        # Who sends has entered the pod's network alone, and has nothing left that it could misuse.
        (child,) = children(running.pid)
        status = facts(child)
        assert (status["Uid"], status["CapEff"], status["CapPrm"]) == (
            " ".join(["65534"] * 4),
            "0" * 16,
            "0" * 16,
        )
        assert status["NoNewPrivs"] == "1"
        assert os.stat(f"/proc/{child}/ns/net").st_ino == os.stat(lab["pod"].path).st_ino
        assert os.stat(f"/proc/{child}/ns/mnt").st_ino == os.stat(f"/proc/{running.pid}/ns/mnt").st_ino
        assert descriptors(child) <= {"/dev/null", "pipe", "socket", "anon_inode"}
        worker.flush()
        until(lambda: NODE in echo.sources())
        worker.apply(service(vip=VIPS), lab_pod())
        heard = echo.heard.total()
        until(lambda: echo.heard.total() > heard + 10)
        os.kill(running.pid, signal.SIGINT)
        done = running.finish(deadline=10)
    finally:
        running.kill()
    assert (done.status, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    news = [
        line.partition(" ")[2] for line in lines if re.match(r"[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3} ", line)
    ]
    name = f"udp from {POD} (sip-client-0) to {OUTSIDE}:5060"
    first, right_again = news
    assert first == (
        f"wrong: seen as {NODE} (this node's address on eth1): {name}; expected: {VIP}, the VIP of sip/sip-client"
    )
    assert re.fullmatch(rf"right again, after [1-9][0-9]* that were not: {re.escape(name)}", right_again)
    assert any(re.fullmatch(r"[0-9]+ s: [0-9]+ right, 0 wrong, 0 lost", line) for line in lines)
    total = next(line for line in lines if line.startswith("wrong: "))
    assert re.match(rf"wrong: [0-9]+ of [0-9]+ were seen as {re.escape(NODE)} ", total)
    assert lines.index(total) > max(at for at, line in enumerate(lines) if " right, " in line)
    assert not Path(f"/proc/{child}").exists()


def test_watching_what_proves_nothing_is_warned_of_at_once(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(backend="nft")
    Worker(lab).apply(service(vip=VIPS, ports="udp:5060"), lab_pod())
    asked = ("sip/sip-client", "--to", target(Family.IPV4, 5060), "--proto", "tcp", "--watch")
    with Echo(lab["outside"], ports=(5060,)) as echo:
        running = lab.start_kvctl("egress", "verify", *asked, at="worker", env={})
        try:
            until(lambda: echo.heard.total() > 1, seconds=30)
            os.kill(running.pid, signal.SIGINT)
            done = running.finish(deadline=10)
        finally:
            running.kill()
    assert done.status == 1
    assert done.stderr.startswith(
        "Warning: sip/sip-client rewrites only udp:5060, so nothing was proved of its VIP"
    )
    assert done.stdout.startswith("not rewritten: ")


def test_on_a_terminal_one_line_is_renewed_and_gone_at_the_end(
    make_lab: MakeLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(backend="nft")
    Worker(lab).apply(service(vip=VIPS), lab_pod())
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    asked = (
        "--from",
        POD,
        "--to",
        target(Family.IPV4, 5060),
        "--proto",
        "udp",
        "--interval",
        "0.05",
        "--watch",
    )
    argv = lab["worker"].argv([sys.executable, "-m", "kvctl", "egress", "verify", *asked])
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    sent, told = b"", False
    with Echo(lab["outside"], ports=(5060,)), subprocess.Popen(argv, stdout=end, env=environment) as process:
        os.close(end)
        try:
            begun = time.monotonic()
            while part := heard(screen):
                sent += part
                assert time.monotonic() < begun + 60, sent
                if b"1 s: " in sent and not told:
                    process.send_signal(signal.SIGINT)
                    told = True
        finally:
            process.kill()
    os.close(screen)
    text = sent.decode("utf-8")
    assert process.returncode == 0, text
    live, _, rest = text.partition("right: all ")
    assert re.search(r"\r\x1b\[2K1 s: [0-9]+ right, 0 wrong, 0 lost", live)
    assert "\n" not in live.partition("1 s: ")[0]
    assert live.endswith("\x1b[2K")
    assert max(map(len, rest.splitlines()[1:])) <= 80
    assert not re.search(r"\x1b\[[0-9;]*m", text)


def test_a_namespace_that_is_not_there_is_status_4(make_lab: MakeLab) -> None:
    lab = make_lab(backend="nft")
    done = lab.kvctl("egress", "verify", "--from", "10.0.0.99", "--to", OUTSIDE)
    assert done.status == 4
    assert done.stderr.startswith(
        "Error: no network namespace on this node has 10.0.0.99\nHint: run it on the node"
    )


def test_it_can_be_told_the_namespace(worker: Worker, echo: Echo, verify: Verify) -> None:
    worker.apply(service(vip=VIPS), lab_pod())
    asked = ("--from", POD, "--to", target(Family.IPV4, 5060), "--netns", worker.lab["pod"].name, *QUICK)
    assert verify.document(*asked, status=0)["verdict"] == "right"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", OUTSIDE), "neither a SERVICE nor --from is given"),
        (("sip/a", "--from", POD, "--to", OUTSIDE), "a SERVICE and --from are both given"),
        (("sip/a", "--netns", "x", "--to", OUTSIDE), "--netns is of one pod"),
        (("--from", POD, "--to", OUTSIDE, "--watch", "--count", "3"), "--count has no effect with --watch"),
        (("--from", "pod", "--to", OUTSIDE), '--from "pod" is not an IP address'),
        (("--from", POD, "--to", OUTSIDE, "--expect", "vip"), '--expect "vip" is not an IP address'),
        (("--from", POD, "--to", f"{OUTSIDE}:0"), "the port is not a number from 1 to 65535"),
        (("--from", POD, "--to", f"{OUTSIDE}:x"), "the port is not a number from 1 to 65535"),
        (("--from", POD, "--to", ":5060"), "names no host"),
        (("--from", POD, "--to", "[outside]:5060"), '--to "outside" is not an IP address'),
        (("--from", POD, "--to", "2001:db8::1:x"), "is not an IP address"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as error:
        cli._invoke(["egress", "verify", *arguments])
    assert says in error.value.message


def test_what_would_tell_nothing_is_refused(verify: Verify) -> None:
    refused = {
        ("--from", "172.16.0.2", "--to", OUTSIDE): "172.16.0.2 is an address of this node, not of a pod",
        (
            "--from",
            POD,
            "--to",
            NODE,
        ): f"{NODE} is an address of this node: what a pod sends there does not leave",
        ("--from", POD, "--to", "2001:db8::1"): "no pod has an address of the family of 2001:db8::1",
        ("--from", POD, "--to", "bad..name"): '--to "bad..name" has no address',
    }
    for arguments, says in refused.items():
        with pytest.raises(InputError) as error:
            verify.text(*arguments, status=0)
        assert says in error.value.message
        assert error.value.hint


@pytest.mark.parametrize("interval", ["0", "0.001", "-1", "nan", "x"])
def test_nobody_loads_a_network_by_a_typo(interval: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a number of seconds from 0\.01 to 3600"):
        cli._invoke(["egress", "verify", "--from", POD, "--to", OUTSIDE, "--interval", interval])
