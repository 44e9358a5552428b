"""Finding a pod's network namespace among many, and refusing to choose where several may be meant."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path

import pytest

from kvctl.lab.build import Lab
from kvctl.lab.netns import Namespace
from kvctl.model.net import Address, parse_address
from kvctl.verify.spaces import NamespaceError, Space, find_spaces, told_space
from tests.conftest import MakeLab, MakeNamespace


def identity(namespace: Namespace) -> tuple[int, int]:
    status = os.stat(namespace.path)
    return status.st_dev, status.st_ino


def find_space(address: Address) -> Space:
    """What is found for it; raises what keeps it from being found."""
    (found,) = find_spaces([address]).values()
    if isinstance(found, NamespaceError):
        raise found
    return found


def unique() -> str:
    """An address that no other test's namespace has at the same time."""
    return f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(backend="nft")


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00:10::1"])
def test_of_all_that_have_the_address_the_one_counts_that_the_route_leads_to(lab: Lab, address: str) -> None:
    # Whoever may make a namespace in a pod can give it any address.
    lab["peer"].batch([f"addr add {address}/{128 if ':' in address else 32} dev lo"])
    with lab["worker"].entered(), find_space(parse_address(address)) as space:
        assert space.identity == identity(lab["pod"])


def test_the_address_alone_finds_it_where_no_link_leads_there(make_namespace: MakeNamespace) -> None:
    node, its, other = make_namespace(), make_namespace(), make_namespace()
    address = unique()
    its.batch([f"addr add {address}/32 dev lo"])
    other.batch([f"addr add {unique()}/32 dev lo"])
    with node.entered(), find_space(parse_address(address)) as space:
        assert space.identity == identity(its)
        assert space.path == str(its.path)


def test_where_several_may_be_meant_nobody_chooses(make_namespace: MakeNamespace) -> None:
    node, one, other = make_namespace(), make_namespace(), make_namespace()
    address = unique()
    for each in (one, other):
        each.batch([f"addr add {address}/32 dev lo"])
    descriptors = len(os.listdir("/proc/self/fd"))
    with node.entered(), pytest.raises(NamespaceError) as error:
        find_space(parse_address(address))
    assert error.value.message.startswith(f"several network namespaces on this node have {address}: ")
    assert str(one.path) in error.value.message
    assert error.value.hint == "say which one is meant: --netns PATH, PID or NAME"
    assert error.value.exit_status == 4
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_thousands_with_the_same_address_hide_nothing_and_keep_nothing_open(
    lab: Lab, make_namespace: MakeNamespace
) -> None:
    for _ in range(12):
        make_namespace().batch(["addr add 10.0.0.1/32 dev lo", "addr add fd00:10::1/128 dev lo"])
    descriptors = len(os.listdir("/proc/self/fd"))
    with lab["worker"].entered():
        found = find_spaces([parse_address(each) for each in ("10.0.0.1", "fd00:10::1", "192.0.2.77")])
    spaces = [each for each in found.values() if isinstance(each, Space)]
    assert [each.identity for each in spaces] == [identity(lab["pod"])] * 2
    assert isinstance(found[parse_address("192.0.2.77")], NamespaceError)
    assert len(os.listdir("/proc/self/fd")) == descriptors + 2
    for each in spaces:
        each.close()


def test_a_process_is_enough_and_the_callers_own_namespace_does_not_count(namespace: Namespace) -> None:
    address = unique()
    with namespace.entered():
        # A namespace without a name: unshare(1) makes one for what it runs.
        script = f"ip link set lo up && ip addr add {address}/32 dev lo && echo up && exec sleep 60"
        process = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            its = os.stat(f"/proc/{process.pid}/ns/net").st_ino
            with find_space(parse_address(address)) as space:
                assert (space.identity[1], space.path) == (its, f"/proc/{process.pid}/ns/net")
            with told_space(str(process.pid), parse_address(address)) as told:
                assert told.identity[1] == its
        finally:
            process.kill()
            process.communicate()
    namespace.batch([f"addr add {address}/32 dev lo"])
    with namespace.entered(), pytest.raises(NamespaceError, match="no network namespace on this node has"):
        find_space(parse_address(address))


def test_the_thread_that_asks_stays_where_it_is(make_namespace: MakeNamespace) -> None:
    node, its = make_namespace(), make_namespace()
    address = unique()
    its.batch([f"addr add {address}/32 dev lo"])
    with node.entered():
        find_space(parse_address(address)).close()
        told_space(its.name, parse_address(address)).close()
        assert os.stat("/proc/thread-self/ns/net").st_ino == identity(node)[1]


def test_what_is_told_has_to_be_the_namespace_of_the_pod(
    make_namespace: MakeNamespace, tmp_path: Path
) -> None:
    node, its = make_namespace(), make_namespace()
    address = parse_address(unique())
    its.batch([f"addr add {address}/32 dev lo"])
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.touch()
    refused = {
        node.name: "is the network namespace of this node itself",
        str(pipe): "is no network namespace",
        str(file): "is no network namespace",
        "/proc/self/ns/mnt": "is no network namespace",
        str(tmp_path / "none"): "No such file or directory",
        "4194305": "No such file or directory",
        "../no": "No such file or directory",
        "a\x1b[31m": '--netns "a\\x1b[31m"',
    }
    with node.entered():
        for told, says in refused.items():
            with pytest.raises(NamespaceError, match=re.escape(says)):
                told_space(told, address)
        with told_space(str(its.path), address) as space:
            assert space.identity == identity(its)
        with pytest.raises(NamespaceError, match=r"no interface there has 192\.0\.2\.1"):
            told_space(its.name, parse_address("192.0.2.1"))
