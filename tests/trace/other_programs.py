"""What other programs of a node put beside kvctl's rules, as they write it: lines of a restore by table."""

from __future__ import annotations

from random import Random

from kvctl.lab.topology import STANDARD, Addresses
from kvctl.model.net import Family

Lines = dict[str, list[str]]

PORTS = (53, 443, 5060, 7000, 8050)
_MANY = {Family.IPV4: "224.0.0.0/4", Family.IPV6: "ff00::/8"}


def some_pod(chance: Random, who: Addresses) -> str:
    """A pod of the lab, or all of them."""
    return chance.choice((who.pod, who.pod, who.peer, who.pod_network))


class Others:
    """The programs; where chance may decide, as `chance` says."""

    def __init__(self, chance: Random, family: Family, *, spare: str) -> None:
        self._chance = chance
        self._family = family
        self._who = STANDARD[family]
        self._spare = spare

    def _put(self) -> str:
        return self._chance.choice(("-I", "-A", "-A"))

    def _pod(self) -> str:
        return some_pod(self._chance, self._who)

    def kube_vip(self) -> Lines:
        """Egress of its own: marked in mangle, rewritten in nat."""
        comment = "-m comment --comment a3ViZS12aXAK=kube-vip-sip"
        marked = f"-s {self._pod()} -m mark --mark 0x40/0x40 {comment}"
        return {
            "mangle": [
                ":KUBE-VIP-EGRESS - [0:0]",
                "-A PREROUTING -j KUBE-VIP-EGRESS",
                f"-A KUBE-VIP-EGRESS -d {self._who.pod_network} -j RETURN",
                f"-A KUBE-VIP-EGRESS -s {self._pod()} -j MARK --set-xmark 0x40/0x40",
            ],
            "nat": [f"{self._put()} POSTROUTING {marked} -j SNAT --to-source {self._spare}"],
        }

    def kube_proxy(self) -> Lines:
        """A ClusterIP with one back end or two, and masquerading of what is marked for it."""
        who, chance = self._who, self._chance
        port = chance.choice(PORTS)
        ends = chance.choice(((who.peer, who.pod), (who.server, who.outside_eth1), (who.peer,)))
        chains = ("KUBE-SERVICES", "KUBE-SVC-A", "KUBE-MARK-MASQ", "KUBE-POSTROUTING")
        nat = [
            *(f":{chain} - [0:0]" for chain in chains),
            f"{self._put()} PREROUTING -j KUBE-SERVICES",
            f"{self._put()} POSTROUTING -j KUBE-POSTROUTING",
            f"-A KUBE-SERVICES -d {who.server_cluster_ip} -p udp -m udp --dport {port} -j KUBE-SVC-A",
            f"-A KUBE-SVC-A ! -s {who.pod_network} -d {who.server_cluster_ip} -j KUBE-MARK-MASQ",
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        ]
        for number, end in enumerate(ends):
            chain, bracketed = f"KUBE-SEP-{number}", f"[{end}]" if ":" in end else end
            last = number == len(ends) - 1
            nat += [
                f":{chain} - [0:0]",
                f"-A KUBE-SVC-A {'' if last else '-m statistic --mode random --probability 0.5'} -j {chain}",
                f"-A {chain} -s {end} -j KUBE-MARK-MASQ",
                f"-A {chain} -p udp -m udp -j DNAT --to-destination {bracketed}:{chance.choice(PORTS)}",
            ]
        forward = [
            ":KUBE-FORWARD - [0:0]",
            "-I FORWARD -j KUBE-FORWARD",
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ]
        return {"nat": nat, "filter": forward}

    def calico(self) -> Lines:
        """Its accept bits, a policy of one pod, and masquerading of what leaves the pod network."""
        network = self._who.pod_network
        return {
            "raw": [
                ":cali-PREROUTING - [0:0]",
                "-I PREROUTING -j cali-PREROUTING",
                "-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000",
                "-A cali-PREROUTING -i veth+ -j MARK --set-xmark 0x40000/0x40000",
            ],
            "filter": [
                ":cali-FORWARD - [0:0]",
                ":cali-from-wl - [0:0]",
                "-I FORWARD -j cali-FORWARD",
                "-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT",
                "-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000",
                "-A cali-FORWARD -i veth+ -j cali-from-wl",
                "-A cali-from-wl -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A cali-from-wl -m conntrack --ctstate INVALID -j DROP",
                f"-A cali-from-wl -s {self._pod()} -j MARK --set-xmark 0x10000/0x10000",
                "-A cali-from-wl -m mark --mark 0x10000/0x10000 -j RETURN",
                f"-A cali-from-wl -j {self._chance.choice(('DROP', 'REJECT', 'RETURN'))}",
            ],
            # Its sets, which are not read, stand for these networks.
            "nat": [
                ":cali-POSTROUTING - [0:0]",
                ":cali-nat-outgoing - [0:0]",
                f"{self._put()} POSTROUTING -j cali-POSTROUTING",
                "-A cali-POSTROUTING -j cali-nat-outgoing",
                f"-A cali-nat-outgoing -s {network} ! -d {network} -j MASQUERADE --random-fully",
            ],
        }

    def flannel(self) -> Lines:
        """Masquerading of what leaves the pod network, which leaves kube-proxy's mark alone."""
        network = self._who.pod_network
        return {
            "nat": [
                ":FLANNEL-POSTRTG - [0:0]",
                f"{self._put()} POSTROUTING -j FLANNEL-POSTRTG",
                "-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN",
                f"-A FLANNEL-POSTRTG -s {network} -d {network} -j RETURN",
                f"-A FLANNEL-POSTRTG -s {network} ! -d {_MANY[self._family]} -j MASQUERADE --random-fully",
            ],
            "filter": [
                ":FLANNEL-FWD - [0:0]",
                "-A FORWARD -j FLANNEL-FWD",
                f"-A FLANNEL-FWD -s {network} -j ACCEPT",
            ],
        }
