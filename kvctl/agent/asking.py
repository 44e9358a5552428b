"""Asking the agent of a node whether a pod's rules are in the kernel: the other end of `endpoint`'s `/wait`."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlencode

from kvctl.agent.address import AgentAddress
from kvctl.errors import KvctlError

FIRST_PAUSE = 0.05
"""Seconds; the rules are mostly in before anybody can ask twice."""
LONGEST_PAUSE = 1.0
_GROWTH = 1.6
_LONGEST_REQUEST = 5.0
_LONGEST_LINE = 1000


class Reply(NamedTuple):
    """What the agent said, or why nothing could be had from it."""

    ready: bool
    reason: str
    final: bool = False
    """Asking again would change nothing: the question itself is at fault."""
    heard: bool = True
    """Somebody answered."""


def ask(agent: AgentAddress, *, namespace: str, pod: str, timeout: float) -> Reply:
    """One question; `timeout` in seconds for each step of it. Every failure is a Reply."""
    query = urlencode({"namespace": namespace, "pod": pod})
    # No proxy of the environment, no redirect: the agent is this node's.
    connection = http.client.HTTPConnection(agent.host, agent.port, timeout=timeout)
    try:
        connection.request("GET", f"/wait?{query}", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        content = answer.read(_LONGEST_LINE).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return Reply(ready=False, reason=f"no answer from {agent}: {_why(error)}", heard=False)
    finally:
        connection.close()
    reason = content.partition("\n")[0]
    if answer.status == HTTPStatus.OK:
        return Reply(ready=True, reason=reason)
    final = answer.status == HTTPStatus.BAD_REQUEST
    return Reply(ready=False, reason=reason or f"{agent} answered {answer.status}", final=final)


def wait_for_rules(
    agent: AgentAddress,
    *,
    namespace: str,
    pod: str,
    deadline: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Reply:
    """Ask until the rules are in, the answer is final, or `clock` reaches `deadline`; the last reply.

    `say` is told each new reason to wait. Pauses grow from 50 ms to a second.
    """
    pause, told = FIRST_PAUSE, None
    while True:
        left = max(deadline - clock(), 0.1)
        reply = ask(agent, namespace=namespace, pod=pod, timeout=min(left, _LONGEST_REQUEST))
        if reply.ready or reply.final or clock() >= deadline:
            return reply
        if reply.reason != told:
            say(reply.reason)
            told = reply.reason
        sleep(max(min(pause, deadline - clock()), 0))
        pause = min(pause * _GROWTH, LONGEST_PAUSE)


def timed_out(reply: Reply, *, who: str, timeout: float) -> KvctlError:
    """The error that the last reply makes."""
    if reply.final:
        return KvctlError(f"the agent refuses the question about {who}: {reply.reason}")
    return KvctlError(
        f"the rules of {who} were not in the kernel within {timeout:g} s: {reply.reason}",
        hint="look at the agent of this node: its log, and kvctl egress list --cluster there"
        if reply.heard
        else "see whether the agent runs on this node (kubectl get pods -A -o wide) and listens there (egress_listen), "
        "and that no firewall or NetworkPolicy keeps this pod from it",
    )


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it takes too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"it speaks no HTTP ({type(error).__name__})" if not isinstance(error, OSError) else str(error)
