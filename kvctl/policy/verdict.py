"""What becomes of a Service: it is wanted, or skipped for a reason."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kvctl.model.net import Address, Family
from kvctl.model.policy import EgressPolicy, WithoutVip
from kvctl.model.ref import ServiceRef
from kvctl.policy.annotations import Problem


class Fate(StrEnum):
    """What becomes of the rules that a skipped Service has in the kernel."""

    LOSE = "lose"
    """The Service cannot be programmed as things are."""
    KEEP = "keep"
    """Something in the input is faulty: the last good rules stay, for the pods it has now."""


class SkipStatus(StrEnum):
    """How a skipped Service is reported."""

    SKIPPED = "skipped"
    ELSEWHERE = "elsewhere"


class Skipped(NamedTuple):
    """A Service (in one family, or before its families are known) that this input has nothing rewritten for."""

    ref: ServiceRef
    reason: str
    fate: Fate
    family: Family | None = None
    vip: Address | None = None
    status: SkipStatus = SkipStatus.SKIPPED
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    drop: EgressPolicy | None = None
    """What is dropped instead, for a Service whose VIP is elsewhere."""
    without_vip: WithoutVip | None = None
    """What it asks for where its VIP is not; None: it cannot be told."""
    vip_unclear: bool = False
    """It names a VIP that cannot be one, so a family without a VIP may have lost it by an error."""


class Wanted(NamedTuple):
    """A policy, and what there is to say about it."""

    policy: EgressPolicy
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    """What of its values is not accepted on this host, though it has rules."""
