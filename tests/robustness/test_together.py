"""Several kvctl at once, and other programs that hold a lock or write at the same time."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kvctl.errors import NetfilterUnavailableError
from kvctl.lab.build import Lab
from kvctl.netfilter import kernel as kernel_module
from kvctl.netfilter.lock import namespace_lock
from tests.builders import objects, pod, service
from tests.conftest import MakeLab, MakeNamespace
from tests.robustness.manifests import manifest
from tests.robustness.node import IN_LAB, Node

MANY = 20
ROOT = str(Path(__file__).parents[2])


ALL = objects(
    *(
        service(f"team/gateway-{n}", vip="192.168.0.245", ports=f"udp:{5000 + n}", created=1_700_000_000)
        for n in range(MANY)
    ),
    *(pod(f"team/gateway-{n}-0", f"10.0.0.{10 + n}", app=f"gateway-{n}") for n in range(MANY)),
)


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    return Node(make_namespace(), backend=backend)


def _told(backend: str | None) -> str:
    return "--nftables" if backend == "nft" else "--no-nftables"


def _start(node: Node, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "kvctl", "egress", *arguments, _told(node.backend)]
    return subprocess.Popen(
        node.namespace.argv(argv),
        env={**os.environ, "PYTHONPATH": ROOT, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and standard error."""
    _, stderr = running.communicate(timeout=120)
    return running.returncode, stderr


def _wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_of_twenty_applies_at_the_same_time_none_is_lost(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(manifest(ALL), encoding="utf-8")
    ranges = ("--pod-cidr", "10.0.0.0/16", "--service-cidr", "10.96.0.0/12", "--assume-vip")
    running = [
        _start(node, "apply", f"team/gateway-{n}", "-f", str(path), *ranges, "--lock-timeout", "100")
        for n in range(MANY)
    ]
    ends = [_end(each) for each in running]
    assert [(status, stderr) for status, stderr in ends if status] == []
    together = node.save()
    node.flush()
    for n in reversed(range(MANY)):
        node.apply(ALL, f"team/gateway-{n}")
    assert together == node.save()
    assert together.count("-j SNAT") == MANY


@contextmanager
def _lock_held(node: Node) -> Iterator[threading.Event]:
    """Another thread has the namespace's lock until the event it gives is set."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with node.namespace.entered(), namespace_lock(timeout=10):
            taken.set()
            free.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert taken.wait(10)
        yield free
    finally:
        free.set()
        holder.join()


class TestAnotherKvctl:
    def test_holds_its_namespace_for_too_long(self, node: Node) -> None:
        before = node.saved()
        with _lock_held(node):
            status, stderr = _end(_start(node, "flush", "--all", "--lock-timeout", "0.3"))
        assert status == 4
        assert "Error: another kvctl is changing this network namespace, and has been for 0.3 s" in stderr
        assert "Hint: " in stderr
        assert "--lock-timeout" in stderr
        assert node.saved() == before

    def test_holds_its_namespace_and_lets_go(self, node: Node) -> None:
        with _lock_held(node) as free:

            def let_go(seconds: float) -> None:
                free.set()
                time.sleep(seconds)

            with node.namespace.entered(), namespace_lock(timeout=30, sleep=let_go):
                assert free.is_set()

    def test_does_not_keep_those_who_only_look(self, node: Node) -> None:
        with _lock_held(node):
            status, _ = _end(_start(node, "list"))
        assert status == 0

    def test_in_another_namespace_is_nobody(self, node: Node, make_namespace: MakeNamespace) -> None:
        with _lock_held(node):
            status, _ = _end(_start(Node(make_namespace(), backend=node.backend), "flush", "--all"))
        assert status == 0

    def test_that_dies_holds_nothing(self, node: Node) -> None:
        program = (
            "import sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from kvctl.netfilter.lock import namespace_lock\n"
            "with namespace_lock(timeout=10): print('taken', flush=True); time.sleep(1000)\n"
        )
        holder = subprocess.Popen(
            node.namespace.argv([sys.executable, "-c", program, ROOT]), stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "taken\n"
            with node.namespace.entered():
                with pytest.raises(NetfilterUnavailableError), namespace_lock(timeout=0):
                    pass
                holder.kill()
                holder.wait()
                with namespace_lock(timeout=0):
                    pass
        finally:
            holder.kill()
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()


class TestAnotherProgramWithTheXtablesLock:
    """Of legacy only: the nft back end needs none."""

    @pytest.fixture
    def lock_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "xtables.lock"
        path.touch()
        monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
        return path

    @pytest.fixture
    def lab(self, make_lab: MakeLab) -> Lab:
        return make_lab(backend="legacy")

    def test_for_too_long_is_an_error_with_a_hint(
        self, lab: Lab, lock_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kernel_module, "LOCK_SECONDS", 1)
        node = Node(lab.worker, backend="legacy", settings=IN_LAB)
        before = node.saved()
        with lock_file.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(NetfilterUnavailableError, match="xtables lock") as caught:
                node.apply(ALL)
            # Looking takes no lock.
            assert node.items() == []
        assert caught.value.exit_status == 4
        assert "fuser" in str(caught.value.hint)
        assert node.saved() == before

    def test_ends_the_command_with_status_4(self, lab: Lab, lock_file: Path) -> None:
        node = Node(lab.worker, backend="legacy", settings=IN_LAB)
        node.apply(ALL)
        with lock_file.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            status, stderr = _end(_start(node, "flush", "--all"))
        assert status == 4
        assert "xtables lock" in stderr
        assert "Hint: " in stderr
        node.flush()

    def test_is_waited_for(self, lab: Lab, lock_file: Path) -> None:
        node = Node(lab.worker, backend="legacy", settings=IN_LAB)
        node.apply(ALL)
        with lock_file.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            running = _start(node, "flush", "--all")
            inode = f":{os.fstat(held.fileno()).st_ino} "
            _wait_until(
                lambda: any(
                    "->" in line and inode in line
                    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()
                )
            )
        assert _end(running)[0] == 0
        assert "KVCTL" not in node.save()


def test_writers_that_do_not_share_the_lock_are_outlasted(lab: Lab, backend: str, tmp_path: Path) -> None:
    """A container without the host's /run: legacy answers EAGAIN to either, or loses one in silence."""
    node = Node(lab.worker, backend=backend, settings=IN_LAB)
    binary = f"iptables-{backend}"
    script = (
        f"{binary} -w 5 -t nat -N NOISE\n"
        f"while :; do {binary} -w 5 -t nat -A NOISE -p tcp -j RETURN; {binary} -w 5 -t nat -F NOISE; sleep 0.01; done\n"
    )
    with ExitStack() as stack:
        for number in range(2):
            noise = subprocess.Popen(
                lab.worker.argv(["sh", "-c", script]),
                env={**os.environ, "XTABLES_LOCKFILE": str(tmp_path / f"lock-{number}")},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(noise.wait)
            stack.callback(noise.kill)
        for _ in range(8):
            node.apply(ALL)
            assert not node.diff(ALL).differs
            node.flush()
            assert node.items() == []
        node.apply(ALL)
    assert not node.diff(ALL).differs
