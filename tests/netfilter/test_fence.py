"""Heartbeats in the lists of xt_recent, in a namespace of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kvctl
from kvctl.lab.build import restore_binary
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter import fence

ROOT = str(Path(kvctl.__file__).parents[1])
LISTS = {Family.IPV4: "kvctl-four", Family.IPV6: "kvctl-six"}
NO_BITS = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
RULE = "-m recent --rcheck --seconds 60 --name {name} --mask {mask} --rsource -j DROP"


@pytest.fixture
def fenced(namespace: Namespace, backend: str) -> Namespace:
    """A namespace whose rules name a list of each family."""
    for family, name in LISTS.items():
        rule = RULE.format(name=name, mask=NO_BITS[family])
        text = f"*filter\n:TEST - [0:0]\n-A TEST {rule}\nCOMMIT\n"
        done = namespace.run([restore_binary(backend=backend, family=family), "--noflush"], stdin=text)
        assert done.status == 0, done.stderr
    return namespace


def test_a_heartbeat_is_there_with_its_age_until_it_is_taken_back(fenced: Namespace) -> None:
    names = tuple(LISTS.values())
    with fenced.entered():
        assert fence.ages(names) == dict.fromkeys(names)
        for _ in range(50):  # more than a list keeps of one address
            assert fence.beat(tuple(LISTS.items())) == []
        for name in names:
            text = Path("/proc/thread-self/net/xt_recent", name).read_text(encoding="ascii")
            assert text.count("src=") == 1
        ages = fence.ages((*names, "kvctl-none"))
        assert set(ages) == set(names)
        assert all(age is not None and 0 <= age < 5 for age in ages.values())
        assert fence.still((*names, "kvctl-none")) == []
        assert fence.ages(names) == dict.fromkeys(names)


def test_a_heartbeat_without_a_rule_is_an_error_and_keeps_no_other_from_being_written(
    fenced: Namespace,
) -> None:
    with fenced.entered():
        (error,) = fence.beat([(Family.IPV4, "kvctl-none"), *LISTS.items()])
        assert "kvctl-none" in str(error)
        assert error.hint is not None
        assert None not in fence.ages(tuple(LISTS.values())).values()


def test_a_heartbeat_stays_in_the_namespace_of_the_thread(fenced: Namespace, backend: str) -> None:
    with fenced.entered():
        assert fence.beat([(Family.IPV4, LISTS[Family.IPV4])]) == []
    assert fence.ages(tuple(LISTS.values())) == {}


def test_whether_the_kernel_has_a_match_is_asked_of_it(namespace: Namespace) -> None:
    with namespace.entered():
        assert fence.available()
        assert fence._has_match()


# Nobody becomes root of a user namespace. What this needs of Python is loaded before: nobody may not read all of it.
IN_A_USER_NAMESPACE = """
import ctypes, os, subprocess, sys
from kvctl.model.net import Family
from kvctl.netfilter import fence
libc = ctypes.CDLL(None, use_errno=True)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, else the map is root's
assert libc.unshare(0x10000000 | 0x40000000 | 0x20000) == 0, os.strerror(ctypes.get_errno())  # user, net, mounts
for name, text in (("setgroups", "deny"), ("uid_map", "0 65534 1"), ("gid_map", "0 65534 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
print(fence.obstacle())
subprocess.run([sys.argv[1], "--noflush"], input=sys.argv[2], text=True, check=True)
print(fence.obstacle())
print(fence.beat([(Family.IPV4, "kvctl-four")]))
"""


def test_root_of_a_user_namespace_is_told_that_no_heartbeat_can_be_written(backend: str) -> None:
    family = Family.IPV4
    rule = RULE.format(name=LISTS[family], mask=NO_BITS[family])
    text = f"*filter\n:TEST - [0:0]\n-A TEST {rule}\nCOMMIT\n"
    done = subprocess.run(
        [sys.executable, "-c", IN_A_USER_NAMESPACE, restore_binary(backend=backend, family=family), text],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XTABLES_LOCKFILE": "/run/xtables.lock", "PYTHONPATH": ROOT},
    )
    assert done.returncode == 0, done.stderr
    before, after, error = done.stdout.splitlines()
    assert "this is a user namespace" in before
    assert after == before
    # It is the truth.
    assert "Permission denied" in error


def test_the_hosts_root_has_no_obstacle(namespace: Namespace, fenced: Namespace) -> None:
    for each in (namespace, fenced):
        with each.entered():
            assert fence.obstacle() is None


def test_a_proc_that_cannot_be_written_is_an_obstacle(namespace: Namespace) -> None:
    script = "from kvctl.netfilter import fence; print(fence.obstacle())"
    done = namespace.run(
        [
            *("unshare", "--mount", "sh", "-ec", 'mount -o remount,ro,bind /proc; exec "$@"', "sh"),
            *(sys.executable, "-c", script),
        ],
        env={"PYTHONPATH": ROOT},
    )
    assert done.stdout == "/proc/net is mounted read-only\n", done.stderr
