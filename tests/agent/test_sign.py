"""The sign of a living agent, with strangers who try to take or forge it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from kvctl.agent import sign as sign_module
from kvctl.agent.sign import NAME, Agent, Election, find_agent, refuse_beside_agent, take_sign
from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from tests.conftest import MakeNamespace

ROOT = str(Path(__file__).parents[2])
NOBODY = 65534

LISTEN = """
import os, socket, sys, time
os.setuid(int(sys.argv[1]))
held = []
for name in sys.argv[2:]:
    held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    held[-1].bind("\\0" + name)
    held[-1].listen(0)
print("ready", flush=True)
time.sleep(60)
"""
LIVE = """
import sys, time
from kvctl.agent.sign import take_sign
with take_sign(node="worker", version="1.2"):
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def process(namespace: Namespace, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python script inside, from the moment it says that it is ready; killed at the end."""
    with namespace.entered():
        running = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdout=subprocess.PIPE,
            text=True,
        )
    with running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def listening(
    namespace: Namespace, *names: str, user: int = NOBODY
) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process of `user` that listens under `names` and never answers."""
    return process(namespace, LISTEN, str(user), *names)


@pytest.fixture
def inside(namespace: Namespace) -> Iterator[Namespace]:
    with namespace.entered():
        yield namespace


def test_nobody_lives_where_no_sign_is(inside: Namespace) -> None:
    assert find_agent() is None
    refuse_beside_agent()


def test_a_living_agent_is_found_with_who_and_where_it_is(inside: Namespace) -> None:
    with process(inside, LIVE) as agent:
        assert find_agent() == Agent(pid=agent.pid, node="worker", version="1.2")
        with pytest.raises(KvctlError, match=rf"process {agent.pid}, node worker, version 1\.2") as caught:
            refuse_beside_agent()
        assert "--force" in str(caught.value.hint)


@pytest.mark.parametrize("election", [None, Election(2, "eth1"), Election(None)])
def test_whether_it_elects_and_fences_is_told(inside: Namespace, election: Election | None) -> None:
    with take_sign(node="n", version="1", election=election):
        assert find_agent() == Agent(pid=os.getpid(), node="n", version="1", election=election)


def test_a_second_agent_is_refused_and_the_first_one_named(inside: Namespace) -> None:
    with process(inside, LIVE) as agent, pytest.raises(KvctlError, match=f"process {agent.pid}") as caught:
        take_sign(node="other", version="2")
    assert str(agent.pid) in str(caught.value.hint)


def test_the_sign_goes_with_its_process_however_it_ends(inside: Namespace) -> None:
    with process(inside, LIVE) as agent:
        agent.kill()
        agent.wait()
        assert find_agent() is None
    with take_sign(node="n", version="1") as sign:
        assert find_agent() == Agent(pid=os.getpid(), node="n", version="1")
        sign.close()
        assert find_agent() is None
    with take_sign(node="n", version="1"):
        pass


def test_each_network_namespace_has_its_own_agent(make_namespace: MakeNamespace) -> None:
    one, two = make_namespace(), make_namespace()
    with process(one, LIVE), two.entered():
        assert find_agent() is None
        with take_sign(node="b", version="1"):
            assert find_agent() == Agent(pid=os.getpid(), node="b", version="1")


def test_of_agents_that_start_together_one_lives(inside: Namespace) -> None:
    script = LIVE.replace("import sys, time", "import sys, time\nsys.stdin.readline()")
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", script],
                    env={**os.environ, "PYTHONPATH": ROOT},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for each in started:
            stack.callback(each.kill)
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        said = [each.stdout.readline() for each in started if each.stdout is not None]
        assert sorted(said) == ["", "", "", "ready\n"]


def test_an_unprivileged_listener_is_no_agent(inside: Namespace) -> None:
    with listening(inside, NAME, f"{NAME}-1"):
        assert find_agent() is None
        refuse_beside_agent()


def test_a_squatter_does_not_keep_the_agent_from_living_and_is_named(inside: Namespace) -> None:
    with listening(inside, NAME) as squatter:
        with take_sign(node="worker", version="1") as sign:
            assert sign.warning is not None
            assert f"process {squatter.pid} of user {NOBODY}" in sign.warning
            assert f"kill {squatter.pid}" in sign.warning
            assert find_agent() == Agent(pid=os.getpid(), node="worker", version="1")
            with pytest.raises(KvctlError, match="another kvctl agent"):
                take_sign(node="worker", version="1")
        assert find_agent() is None
    with take_sign(node="worker", version="1") as sign:
        assert sign.warning is None


def test_strangers_who_never_answer_hide_no_agent_and_hold_nobody_up(inside: Namespace) -> None:
    names = [NAME, *(f"{NAME}-{n}" for n in range(50))]
    with listening(inside, *names), ExitStack() as stack:
        for name in names:
            for _ in range(2):  # the queue of a listener with backlog 0 takes one
                filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                filler.setblocking(False)
                try:
                    filler.connect("\0" + name)
                except BlockingIOError:
                    break
            else:
                pytest.fail("the queue is not full")
        begun = time.monotonic()
        assert find_agent() is None
        assert time.monotonic() - begun < 1
        with take_sign(node="worker", version="1"):
            begun = time.monotonic()
            assert find_agent() == Agent(pid=os.getpid(), node="worker", version="1")
            assert time.monotonic() - begun < 1


def test_an_agent_that_hangs_is_an_agent(inside: Namespace) -> None:
    with listening(inside, NAME, user=0) as hanging:
        begun = time.monotonic()
        found = find_agent()
        assert found == Agent(pid=hanging.pid, node=None)
        assert str(found) == f"process {hanging.pid}"
        assert time.monotonic() - begun < 1


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]", b'{"node": 3}', b"\xff"])
def test_an_answer_that_makes_no_sense_is_no_answer(answer: bytes) -> None:
    found = sign_module._agent(sign_module._Listener(pid=7, uid=0, answer=answer))
    assert found == Agent(pid=7, node=None, version=None)


def test_what_an_agent_says_of_itself_is_printed_harmless() -> None:
    said = json.dumps({"node": "a\x1b[31m\nb", "version": "1"}).encode()
    found = sign_module._agent(sign_module._Listener(pid=0, uid=0, answer=said))
    assert str(found) == "a process that is not to be seen from here, node a\\x1b[31m\\nb, version 1"


def test_names_that_forge_lines_of_the_list_do_no_harm(inside: Namespace) -> None:
    forged = f"{NAME}\nx: 00000002 00000000 zzzzz 0001 01 1 @{NAME}-f\nx: 2 0 00010000 1 1 1 @{NAME}-g"
    with listening(inside, forged):
        assert find_agent() is None
        with process(inside, LIVE) as agent:
            found = find_agent()
            assert found is not None
            assert found.pid == agent.pid


def test_an_agent_answers_many_who_ask(inside: Namespace) -> None:
    with take_sign(node="n", version="1"):
        assert {find_agent() for _ in range(300)} == {Agent(pid=os.getpid(), node="n", version="1")}


def test_a_sign_leaves_no_descriptor_and_no_thread(inside: Namespace) -> None:
    import threading

    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = state()
    with take_sign(node="n", version="1"):
        find_agent()
    assert state() == before


@pytest.fixture
def egress(namespace: Namespace) -> Callable[..., tuple[int, str]]:
    """`kvctl egress WORDS` inside: exit status and standard error."""

    def run(*words: str, stdin: str | None = None) -> tuple[int, str]:
        argv = [sys.executable, "-m", "kvctl", "egress", *words]
        done = namespace.run(argv, stdin=stdin, env={"PYTHONPATH": ROOT})
        return done.status, done.stderr

    return run


def test_changes_by_hand_beside_an_agent_are_refused_unless_forced(
    namespace: Namespace, egress: Callable[..., tuple[int, str]]
) -> None:
    nothing = '{"kind": "List", "apiVersion": "v1", "items": []}'
    with process(namespace, LIVE) as agent:
        for words in (("apply", "-f", "-"), ("flush", "--all")):
            status, said = egress(*words, stdin=nothing)
            assert (status, f"process {agent.pid}, node worker" in said) == (1, True), said
            assert "Hint: " in said
            assert "--force" in said
            assert egress(*words, "--force", stdin=nothing)[0] == 0
        for command in ("apply -f - --dry-run", "diff -f -", "list"):
            assert egress(*command.split(), stdin=nothing)[0] == 0
    assert egress("flush", "--all")[0] == 0
