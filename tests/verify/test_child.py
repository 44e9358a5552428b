"""The process that asks from within a namespace: what it cannot do, and what its parent makes of its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvctl.errors import KvctlError
from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace
from kvctl.model.net import parse_address
from kvctl.verify import child
from kvctl.verify.child import Asker, asking, hear_all
from kvctl.verify.sender import Job, Loss, Outcome
from kvctl.verify.spaces import NamespaceError, Space

HERE = parse_address("127.0.0.1")
JOB = Job(HERE, HERE, 7001, ("udp", "tcp"), times=3, interval=0.01, timeout=5.0, may_stay=True)


@contextmanager
def opened(path: str) -> Iterator[Space]:
    with Space(path, os.open(path, os.O_RDONLY)) as space:
        yield space


def test_every_outcome_is_heard_to_the_end_of_all_jobs(namespace: Namespace) -> None:
    with (
        Echo(namespace, ports=(7001,)),
        opened(str(namespace.path)) as space,
        asking([(space, JOB), (space, JOB._replace(port=7002))]) as askers,
    ):
        heard = [each for each in hear_all(askers) if each is not None]
    right = [outcome for asker, outcome in heard if asker is askers[0]]
    assert sorted(right) == sorted(Outcome(name, source=HERE) for name in ("udp", "tcp") for _ in range(3))
    assert [outcome.loss for asker, outcome in heard if asker is askers[1]] == [Loss.REFUSED] * 6


def test_the_time_is_told_while_nothing_is_heard(namespace: Namespace) -> None:
    nobody = JOB._replace(
        destination=parse_address("127.0.0.2"), times=None, interval=3600.0, protocols=("udp",)
    )
    with namespace.entered(), namespace.socket(2, 2) as silent, opened(str(namespace.path)) as space:
        silent.bind(("127.0.0.2", 7001))
        with asking([(space, nobody)]) as askers:
            assert next(hear_all(askers, until=lambda: 0.0)) is None


def test_what_is_no_network_namespace_cannot_be_entered() -> None:
    with opened("/proc/self/ns/mnt") as space, Asker(space, JOB) as asker:
        with pytest.raises(NamespaceError, match="cannot enter the network namespace") as error:
            list(hear_all([asker]))
        assert error.value.exit_status == 4


def test_a_process_that_was_killed_is_no_end_of_its_job(namespace: Namespace) -> None:
    endless = JOB._replace(times=None)
    with Echo(namespace, ports=(7001,)), opened(str(namespace.path)) as space, Asker(space, endless) as asker:
        assert asker.hear()
        os.kill(asker._pid, signal.SIGKILL)
        with pytest.raises(KvctlError, match=r"the process that asks from 127\.0\.0\.1 ended with status -9"):
            list(hear_all([asker]))


@pytest.mark.parametrize(
    "says",
    [
        b"udp 10.0.0.1\n",
        b"icmp - refused\n",
        b"udp 10.0.0.256 -\n",
        b"udp - \x1b[31m\n",
        b"\xff\n",
        b"x" * 200,
    ],
)
def test_nonsense_of_one_that_was_taken_over_by_strangers_is_an_error(
    namespace: Namespace, says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_write_line", lambda outcome: says)
    with (
        opened(str(namespace.path)) as space,
        Asker(space, JOB) as asker,
        pytest.raises(KvctlError, match="tells nonsense"),
    ):
        list(hear_all([asker]))


def test_leaving_ends_it_and_leaves_nothing_open(namespace: Namespace) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with opened(str(namespace.path)) as space, asking([(space, JOB._replace(times=None))]) as askers:
        pid = askers[0]._pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(os.listdir("/proc/self/fd")) == descriptors
