"""A link with several hosts on it, each a network namespace, and an ear on what goes over it."""

from __future__ import annotations

import json
import socket

from kvctl.lab.netns import Namespace
from kvctl.model.net import Address, Family, parse_address
from kvctl.node.frames import Claim, read_claim
from tests.conftest import MakeNamespace
from tests.waiting import until

VIPS = {Family.IPV4: parse_address("192.168.0.245"), Family.IPV6: parse_address("2001:db8::245")}

_ETH_P_ALL = 3


class Host:
    """One host of a segment; its interface is `eth0`."""

    def __init__(self, namespace: Namespace, number: int) -> None:
        self.namespace = namespace
        self.number = number
        self.mac = f"02:00:00:00:00:{number:02x}"
        self.mac_bytes = bytes.fromhex(self.mac.replace(":", ""))

    def add(self, *addresses: Address) -> None:
        """Bind addresses without duplicate detection."""
        self.namespace.batch([f"addr add {a}/{a.max_prefixlen} dev eth0 nodad" for a in addresses])

    def remove(self, *addresses: Address) -> None:
        """Take addresses away."""
        self.namespace.batch([f"addr del {a}/{a.max_prefixlen} dev eth0" for a in addresses])


class Tap:
    """Every frame of a segment, from when this is made."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("br0", _ETH_P_ALL))
        self.frames: list[bytes] = []

    def hear(self) -> list[bytes]:
        """All frames so far."""
        while True:
            try:
                self.frames.append(self._socket.recv(2048, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return self.frames

    def of(self, address: Address) -> list[bytes]:
        """The frames so far that claim `address`."""
        return [frame for frame in self.hear() if (c := read_claim(frame)) and c.address == address]

    def claims(self) -> list[Claim]:
        """All claims so far."""
        return [claim for frame in self.hear() if (claim := read_claim(frame))]

    def close(self) -> None:
        self._socket.close()


class Segment:
    """A bridge in a namespace of its own, which is a host, too (192.168.0.1, 2001:db8::1)."""

    def __init__(self, make_namespace: MakeNamespace, *, hosts: int = 2, first: int = 10) -> None:
        self.outside = make_namespace()
        self.outside.batch(
            [
                "link add br0 address 02:00:00:00:00:01 type bridge mcast_snooping 0",
                "link set br0 up",
                "addr add 192.168.0.1/24 dev br0",
                "addr add 2001:db8::1/64 dev br0 nodad",
            ]
        )
        self.hosts = [self._host(make_namespace(), first + n) for n in range(hosts)]

    def _host(self, namespace: Namespace, number: int) -> Host:
        host = Host(namespace, number)
        self.plug(host, "eth0", host.mac)
        namespace.batch(
            [
                f"addr add 192.168.0.{number}/24 dev eth0",
                f"addr add 2001:db8::{number}/64 dev eth0 nodad",
            ]
        )
        return host

    def plug(self, host: Host, interface: str, mac: str) -> None:
        """Give a host an interface on the link."""
        port = f"p{host.number}{interface}"
        self.outside.batch(
            [
                f"link add {port} type veth peer name {interface} address {mac} netns {host.namespace.name}",
                f"link set {port} master br0 up",
            ]
        )
        host.namespace.batch([f"link set {interface} up"])
        until(lambda: self._forwards(port) and _is_up(host.namespace, interface))

    def _forwards(self, port: str) -> bool:
        """Whether the bridge passes on what comes by a port: it hears of the cable a little later than the host."""
        [link] = json.loads(self.outside.run(["ip", "-j", "-d", "link", "show", port]).stdout)
        return bool(link["linkinfo"]["info_slave_data"]["state"] == "forwarding")

    def tap(self) -> Tap:
        """An ear; to be closed."""
        return Tap(self.outside)

    def neighbour(self, address: Address) -> tuple[str | None, str | None]:
        """The hardware address and the state that the outside has for an address."""
        done = self.outside.run(["ip", "-j", "neigh", "show", "to", str(address), "dev", "br0"])
        for entry in json.loads(done.stdout or "[]"):
            return entry.get("lladdr"), entry["state"][0]
        return None, None

    def learn(self, address: Address) -> None:
        """Let the outside talk to an address until its entry is REACHABLE."""

        def learnt() -> bool:
            self.outside.run(["ping", "-c1", "-W1", str(address)])
            return self.neighbour(address)[1] == "REACHABLE"

        until(learnt)

    def remember(self, address: Address, mac: str) -> None:
        """Give the outside an entry that has just been found REACHABLE."""
        self.outside.batch([f"neigh replace {address} lladdr {mac} dev br0 nud reachable"])


def _is_up(namespace: Namespace, interface: str) -> bool:
    [link] = json.loads(namespace.run(["ip", "-j", "link", "show", interface]).stdout)
    return bool(link["operstate"] == "UP")
