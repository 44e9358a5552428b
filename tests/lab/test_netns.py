"""Namespaces: entering, running, sockets, and what is said when the kernel refuses."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from pytest_subprocess import FakeProcess

from kvctl import proc
from kvctl.errors import NetfilterUnavailableError, ProcessError
from kvctl.lab.netns import Namespace, binary, ip_batch
from tests.conftest import MakeNamespace


def _where() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_thread_is_inside_for_the_block_alone_and_other_threads_never(namespace: Namespace) -> None:
    home = _where()
    entered, elsewhere = threading.Event(), []

    def look() -> None:
        entered.wait(10)
        elsewhere.append(_where())

    other = threading.Thread(target=look)
    other.start()
    with namespace.entered():
        assert _where() == os.stat(namespace.path).st_ino != home
        entered.set()
        other.join()
    assert _where() == home
    assert elsewhere == [home]


def test_a_thread_comes_home_after_an_exception(namespace: Namespace) -> None:
    home = _where()
    with pytest.raises(ZeroDivisionError), namespace.entered():
        raise ZeroDivisionError
    assert _where() == home


def test_entering_leaves_no_descriptor_open(namespace: Namespace) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with namespace.entered():
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_socket_lives_in_its_namespace_whoever_uses_it(make_namespace: MakeNamespace) -> None:
    here, there = make_namespace(), make_namespace()
    with (
        here.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        here.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        there.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        # In the other namespace the port is free.
        stranger.bind(server.getsockname())
        client.sendto(b"hello", server.getsockname())
        assert server.recv(16) == b"hello"


def test_a_program_runs_inside_with_its_input_environment_and_status(namespace: Namespace) -> None:
    script = "read word; echo $word $ANSWER; readlink /proc/self/ns/net; exit 3"
    done = namespace.run(["sh", "-c", script], stdin="forty-two\n", env={"ANSWER": "42"})
    assert done.status == 3
    assert done.stdout == f"forty-two 42\nnet:[{os.stat(namespace.path).st_ino}]\n"


def test_a_sysctl_is_written_inside_alone(namespace: Namespace) -> None:
    before = proc.run(["cat", "/proc/sys/net/ipv4/ip_default_ttl"], deadline=5).stdout
    namespace.write_sysctls({"ipv4/ip_default_ttl": "77"})
    assert namespace.run(["cat", "/proc/sys/net/ipv4/ip_default_ttl"]).stdout == "77\n"
    assert proc.run(["cat", "/proc/sys/net/ipv4/ip_default_ttl"], deadline=5).stdout == before


def test_deleting_what_is_not_there_is_no_error(namespace: Namespace) -> None:
    namespace.delete()
    assert not namespace.exists()
    namespace.delete()


def test_the_line_of_a_batch_that_fails_is_named(namespace: Namespace) -> None:
    with pytest.raises(ProcessError) as caught:
        namespace.batch(["link set lo up", "link set nowhere up", "link set lo down"])
    assert caught.value.line == "link set nowhere up"
    assert "Cannot find device" in caught.value.message


def test_without_permission_the_error_says_so_with_exit_status_4(fp: FakeProcess) -> None:
    refusal = "setting the network namespace failed: Operation not permitted\n"
    fp.register([fp.any()], returncode=1, stderr=refusal)
    with pytest.raises(NetfilterUnavailableError) as caught:
        ip_batch(["netns add x"])
    assert caught.value.exit_status == 4
    assert caught.value.hint is not None
    assert "root" in caught.value.hint


def test_a_missing_program_is_named_with_its_debian_package() -> None:
    with pytest.raises(NetfilterUnavailableError) as caught:
        binary("no-such-program-as-this", package="iproute2")
    assert caught.value.exit_status == 4
    assert caught.value.hint == "apt-get install iproute2"
