"""A node with two interfaces, and what is said of the addresses on them."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

from kvctl.errors import KvctlError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Address, Family, parse_address
from kvctl.node.addresses import AddressError, bound

VIP4, VIP6 = parse_address("192.168.0.245"), parse_address("2001:db8::245")
VIPS = {Family.IPV4: VIP4, Family.IPV6: VIP6}
OWN = {Family.IPV4: "192.168.0.240", Family.IPV6: "2001:db8::240"}
NEAR = {Family.IPV4: "192.168.0.7", Family.IPV6: "2001:db8::7"}
FAR = {Family.IPV4: "8.8.8.8", Family.IPV6: "2001:db9::7"}
ROUTES = ["route add default via 192.168.0.1", "route add default via 2001:db8::1"]
ADDRESSES = ["addr add 192.168.0.240/24 dev eth0", "addr add 2001:db8::240/64 dev eth0 nodad"]
LINKS = [
    *(f"link add eth{n} type veth peer name far{n}" for n in range(2)),
    *(f"link set {name}{n} up" for n in range(2) for name in ("eth", "far")),
]


def done(errors: Sequence[KvctlError]) -> None:
    assert [error.message for error in errors] == []


def refusal(errors: Sequence[KvctlError]) -> AddressError:
    (error,) = errors
    assert isinstance(error, AddressError)
    assert error.hint
    return error


def found(*, protocols: bool = True) -> dict[tuple[Address, str], int | None]:
    return {(b.address, b.interface): b.lifetime for b in bound(protocols=protocols)}


def listed(node: Namespace, *arguments: str) -> list[dict[str, object]]:
    """The addresses by ip(8), each with its interface's name."""
    links: list[dict[str, object]] = json.loads(node.run(["ip", "-j", "addr", "show", *arguments]).stdout)
    return [
        {**info, "dev": link["ifname"]}
        for link in links
        for info in link.get("addr_info", [])  # type: ignore[attr-defined]
        if info  # ip(8) prints what it has filtered out as empty objects
    ]


def source(destination: str) -> str:
    """The address that this host sends from to `destination`."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        name: str = probe.getsockname()[0]
        return name
