"""The settings that decide what is wanted, each already parsed and checked."""

from __future__ import annotations

from typing import NamedTuple

from kvctl.model.net import Network
from kvctl.model.policy import WithoutVip
from kvctl.model.way import DEFAULT_SPACE, MarkSpace


class Settings(NamedTuple):
    """Flag, else environment, else default; empty tuples mean: not told."""

    pod_cidrs: tuple[Network, ...] = ()
    service_cidrs: tuple[Network, ...] = ()
    exclude_cidrs: tuple[Network, ...] = ()
    exclude_nodes: bool = True
    """Whether Nodes' InternalIPs are excluded networks."""
    vip_ranges: tuple[Network, ...] = ()
    """Where a VIP that a tenant names must lie, for objects read through the API."""
    node: str | None = None
    """Only pods of this node count; None: those of all nodes."""
    this_node: str | None = None
    """The node kvctl runs on, for messages and for its own addresses."""
    assume_vip: bool = False
    """The VIP counts as here without an address on an interface."""
    without_vip: WithoutVip = WithoutVip.NODE_ADDRESS
    """What becomes of the traffic of Services that do not say it themselves, where their VIP is not."""
    elects: bool = False
    """kvctl places the VIPs (serviceElection): where it has written a status, what the Service asks for counts."""
    fence_seconds: int | None = None
    """In election mode: how long rules use a VIP without a heartbeat; None: as long as they are there."""
    space: MarkSpace = DEFAULT_SPACE
    """The marks, routing tables and rule priorities that are kvctl's."""
    interface: str | None = None
    """The interface of Services that name none; None: found from addresses and routes."""
