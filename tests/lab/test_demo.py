"""`kvctl lab demo`, end to end: it tells the truth, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvctl import proc
from kvctl.errors import KvctlError
from kvctl.lab import demo
from kvctl.lab.build import Lab
from kvctl.lab.netns import existing

_DEMO = [sys.executable, "-m", "kvctl", "lab", "demo"]


@contextmanager
def _running(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*_DEMO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _read_until(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"the demo never said {beginning!r}: {process.communicate()[1]}")


@pytest.mark.parametrize("flag", ["--nftables", "--no-nftables"])
def test_the_demo_shows_what_it_promises_and_leaves_nothing(kernel: None, flag: str) -> None:
    with _running([flag]) as process:
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        assert existing(f"kvctl-demo-{process.pid}-") == []
    sources = [line.split(" sees ")[1].split()[0] for line in stdout.splitlines() if "  pod -> " in line]
    node, vip, pod = "192.168.0.240", "192.168.0.245", "10.0.0.1"
    assert sources == [node, node, vip, vip, node, pod, pod, "172.16.0.2", node, node]
    assert "applied" in stdout.split("4. What is there")[1].split("5. And away")[0]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_demo_leaves_nothing(kernel: None, number: int, status: int) -> None:
    with _running([]) as process:
        _read_until(process, "1. Before")
        # To the whole group, as a terminal does it, and again, as an impatient user does.
        os.killpg(process.pid, number)
        os.killpg(process.pid, number)
        process.communicate(timeout=60)
        assert process.returncode == status
        assert existing(f"kvctl-demo-{process.pid}-") == []


def test_what_a_killed_demo_left_is_removed_by_the_next(kernel: None) -> None:
    with _running([]) as process:
        _read_until(process, "1. Before")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert existing(f"kvctl-demo-{process.pid}-") != []
    proc.run(_DEMO, deadline=60)
    assert existing(f"kvctl-demo-{process.pid}-") == []


def test_the_manifest_of_the_demo_is_printed_alone_for_playing() -> None:
    done = proc.run([*_DEMO, "--manifest"], deadline=60)
    assert (done.status, done.stdout) == (0, demo.MANIFEST)


def test_a_source_that_is_not_as_promised_ends_the_demo(
    kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def does_nothing(self: Lab, *arguments: str, stdin: str | None = None) -> proc.Completed:
        return proc.Completed(argv=arguments, status=0, stdout="applied\n", stderr="")

    monkeypatch.setattr(Lab, "kvctl", does_nothing)
    said: list[str] = []
    with pytest.raises(KvctlError, match=r"outside saw 192\.168\.0\.240 of udp .*, not 192\.168\.0\.245"):
        demo.run(backend="nft", say=said.append)
    assert "All as promised" not in "\n".join(said)
    assert existing(f"kvctl-demo-{os.getpid()}-") == []


def test_a_command_that_fails_ends_the_demo(kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Lab, *arguments: str, stdin: str | None = None) -> proc.Completed:
        return proc.Completed(argv=arguments, status=4, stdout="", stderr="Error: no iptables\n")

    monkeypatch.setattr(Lab, "kvctl", fails)
    said: list[str] = []
    with pytest.raises(KvctlError, match=r"egress apply .* ended with status 4"):
        demo.run(backend="legacy", say=said.append)
    assert "  Error: no iptables" in said
