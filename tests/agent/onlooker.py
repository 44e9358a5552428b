"""What is seen from outside while a VIP moves: whose packets carry it, who tells it, who has it, who claims it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from struct import Struct
from types import TracebackType
from typing import NamedTuple, Self

from kvctl.lab.ear import Ear
from kvctl.lab.topology import STANDARD
from kvctl.model.lease import IDENTITY_PREFIX
from kvctl.model.net import Family, parse_address
from kvctl.node.host import read_host
from tests.agent.electing import WORKERS, Electing
from tests.apiserver import Object, Request

# linux/rtnetlink.h: RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_ADDRESSES = 0x10 | 0x100
_NEW_ADDRESS = 20
_HEADER = Struct("=IH")
"""linux/netlink.h nlmsghdr: the length and the kind, with which it begins."""
_LONGEST = 1 << 16


class Claim(NamedTuple):
    """A request that makes a node the holder of a Lease which names another, or nobody."""

    at: float
    """Monotonic seconds, when it came: the Lease is written after this."""
    node: str
    still: frozenset[str]
    """Who else had a VIP on an interface at that moment."""


class Had(NamedTuple):
    """Who has had a VIP on an interface, from a moment on."""

    at: float
    nodes: frozenset[str]


class Change(NamedTuple):
    """What a kernel has told of a VIP on one of its interfaces."""

    at: float
    node: str
    vip: str
    there: bool
    """It was added, or its lifetime was changed; else it has gone."""


class Onlooker:
    """Hears and sees until the end of the block; by default for the VIP of the nodes' family."""

    def __init__(self, nodes: Electing, *families: Family) -> None:
        self.nodes = nodes
        self.vips = tuple(STANDARD[family].vip for family in families or (nodes.family,))
        self.ear = Ear(nodes.lab, self.vips)
        self.claims: list[Claim] = []
        self.had: dict[str, list[Had]] = {}
        self.changes: list[Change] = []
        self._stack = ExitStack()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onlooker", daemon=True)

    def __enter__(self) -> Self:
        self._sockets = {self._stack.enter_context(self._told_by(worker)): worker for worker in WORKERS}
        self._look()
        self.nodes.server.requests = _Heeded(self.nodes.server.requests, self._heed)
        self._stack.enter_context(self.ear)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self.nodes.server.requests = list(self.nodes.server.requests)
        self._stack.close()

    def heard(self, vip: str | None = None) -> set[str]:
        """The nodes whose packets have carried the VIP."""
        return {heard.worker for heard in list(self.ear.packets[vip or self.vips[0]])}

    def last(self, node: str, vip: str | None = None) -> float:
        """When the last packet of a node came; 0: none has."""
        heard = list(self.ear.packets[vip or self.vips[0]])
        return max((packet.at for packet in heard if packet.worker == node), default=0.0)

    def first(self, node: str, *, after: float, vip: str | None = None) -> float | None:
        """When the first packet of a node after that moment came."""
        heard = list(self.ear.packets[vip or self.vips[0]])
        return min((p.at for p in heard if p.worker == node and p.at > after), default=None)

    def taken(self, node: str) -> float | None:
        """When the node first claimed the Lease that another had."""
        return next((claim.at for claim in list(self.claims) if claim.node == node), None)

    def announcers(self, vip: str) -> list[str]:
        """Who has told the outside of the VIP, one after the other."""
        heard = sorted(self.ear.announcements[vip])
        return [worker for worker, _ in groupby(each.worker for each in heard)]

    def owners(self, vip: str | None = None) -> list[frozenset[str]]:
        """Who has had the VIP on an interface, one after the other; a node that is starved may lose it for a while."""
        its = (had.nodes for had in self.had[vip or self.vips[0]] if had.nodes)
        return [nodes for nodes, _ in groupby(its)]

    def gap(self, first: str, second: str) -> float:
        """The seconds between the last packet of one node and the first of the next."""
        last = self.last(first)
        begun = self.first(second, after=last)
        assert begun is not None
        return begun - last

    def saw_nothing_twice(self) -> None:
        """Assert that the outside knew at any time whom the VIP's packets come from, and only one node had it."""
        for vip in self.vips:
            assert self.ear.stragglers(vip) == [], self.announcers(vip)
            assert all(len(had.nodes) <= 1 for had in self.had[vip]), self.had[vip]

    def saw_a_move(self, first: str, second: str) -> float:
        """Assert that one had stopped in everything before the other began; when that claimed the Lease."""
        self.saw_nothing_twice()
        for vip in self.vips:
            assert self.announcers(vip) in ([second], [first, second])
        return self.saw_a_change(first, second)

    def saw_a_change(self, first: str, second: str) -> float:
        """The same, but for what the outside was told."""
        taken = self.taken(second)
        assert taken is not None, self.nodes.told()
        assert {claim.still for claim in self.claims} == {frozenset()}, self.claims
        for vip in self.vips:
            assert 0 < self.last(first, vip) < taken, (vip, self.claims, self.last(first, vip))
            begun = self.first(second, after=0.0, vip=vip)
            assert begun is not None
            assert begun > taken
            assert self.owners(vip) == [{first}, {second}], self.had[vip]
        return taken

    # Inside.

    def _told_by(self, worker: str) -> socket.socket:
        """What the kernel tells of a node's addresses."""
        made = self.nodes.lab[worker].socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        made.bind((0, _ADDRESSES))
        return made

    def _run(self) -> None:
        while not self._end.is_set():
            ready, _, _ = select.select(self._sockets, [], [], 0.05)
            for each in ready:
                self.changes += _changes(each.recv(_LONGEST), self._sockets[each], self.vips)
            if ready:
                self._look()

    def _look(self) -> None:
        """Who has which VIP now, if that is new."""
        at, having = time.monotonic(), {worker: self._addresses(worker) for worker in WORKERS}
        for vip in self.vips:
            nodes = frozenset(worker for worker, addresses in having.items() if vip in addresses)
            its = self.had.setdefault(vip, [])
            if not its or its[-1].nodes != nodes:
                its.append(Had(at, nodes))

    def _addresses(self, worker: str) -> set[str]:
        with self.nodes.lab[worker].entered():
            return {str(each.address) for each in read_host().addresses}

    def _heed(self, request: Request) -> None:
        """Take note of a claim, before the server has done anything for it."""
        at = time.monotonic()
        if request.resource != "leases" or request.method not in ("POST", "PATCH"):
            return
        wanting = _node_of(request.body)
        if request.method == "PATCH":
            # .../namespaces/NAMESPACE/leases/NAME
            *_, namespace, _, name = request.path.split("/")
            there = self.nodes.server.get("leases", name, namespace=namespace)
            # One that comes too late changes nothing.
            if there is None or _version(request.body) != _version(there) or _node_of(there) == wanting:
                return
        if wanting:
            others = [worker for worker in WORKERS if worker != wanting]
            still = frozenset(w for w in others if self._addresses(w).intersection(self.vips))
            self.claims.append(Claim(at, wanting, still))


def _changes(messages: bytes, node: str, vips: Iterable[str]) -> Iterator[Change]:
    """What netlink messages say of these VIPs."""
    at = time.monotonic()
    while len(messages) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(messages)
        for vip in vips:
            if parse_address(vip).packed in messages[_HEADER.size : length]:
                yield Change(at, node, vip, kind == _NEW_ADDRESS)
        messages = messages[(length + 3) & ~3 :]


def _node_of(lease: Object) -> str:
    """The node that a Lease names; empty: none, or that does not change."""
    named: str = lease.get("spec", {}).get("holderIdentity") or ""
    return named.removeprefix(IDENTITY_PREFIX)


def _version(lease: Object) -> object:
    return lease["metadata"].get("resourceVersion")


class _Heeded(list[Request]):
    """The requests that a server has seen, each shown to `heed` before it is answered."""

    def __init__(self, before: list[Request], heed: Callable[[Request], None]) -> None:
        super().__init__(before)
        self._heed = heed

    def append(self, request: Request) -> None:
        super().append(request)
        self._heed(request)
