"""Rules of nobody in particular, made at random: what other programs might have put above, below and around ours."""

from __future__ import annotations

from random import Random

from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family
from tests.trace.other_programs import PORTS, Others, some_pod

USER_CHAINS = ("ONE", "TWO", "KUBE-X")
_STATES = (
    "NEW",
    "ESTABLISHED",
    "NEW,DNAT",
    "DNAT",
    "INVALID",
    "NEW,ESTABLISHED",
    "UNTRACKED",
    "INVALID,UNTRACKED",
)

_ELSEWHERE = {Family.IPV4: "198.51.100.0/24", Family.IPV6: "2001:db8:99::/64"}
_ICMP = {
    Family.IPV4: ("icmp", "icmp", "--icmp-type 8", "TTL --ttl-set 65"),
    Family.IPV6: ("ipv6-icmp", "icmp6", "--icmpv6-type 128", "HL --hl-set 65"),
}
_REFUSED = {Family.IPV4: "icmp-admin-prohibited", Family.IPV6: "icmp6-adm-prohibited"}


def _kind(condition: str) -> str:
    """What a rule may have once: an option of its own, or a module."""
    first, second, *_ = condition.removeprefix("! ").split(" ")
    return f"{first} {second}" if first == "-m" else first


class Foreign:
    """Lines of a restore by table; the same for the same `chance` and family."""

    def __init__(self, chance: Random, family: Family, *, spare: str, unknowns: bool) -> None:
        self._chance = chance
        self._who = STANDARD[family]
        self._family = family
        self._spare = spare
        self._unknowns = unknowns
        self._icmp = _ICMP[family]

    def lines(self) -> dict[str, list[str]]:
        """`-I` and `-A` lines for each table, after the chains they need."""
        found: dict[str, list[str]] = {}
        quiet = self._chance.random() < 0.4
        for table in ("raw", "mangle", "filter", "nat"):
            lines = [f":{chain} - [0:0]" for chain in USER_CHAINS]
            chains = {
                "raw": ("PREROUTING",),
                "mangle": ("PREROUTING", "PREROUTING", "FORWARD", "POSTROUTING"),
                "filter": ("FORWARD",),
                "nat": ("POSTROUTING", "POSTROUTING", "POSTROUTING", "PREROUTING"),
            }[table]
            # A chain that is entered from two hooks may hold only what both allow.
            entered = self._chance.choice(chains)
            for chain in self._chance.choices(
                chains, k=0 if quiet else self._chance.choice((0, 0, 1, 1, 2, 3))
            ):
                deeper = USER_CHAINS if chain == entered else ()
                lines.append(
                    f"{self._chance.choice(('-I', '-I', '-A'))} {chain} {self._rule(table, chain, deeper)}"
                )
            for place, chain in enumerate(USER_CHAINS):
                for _ in range(self._chance.randint(0, 2)):
                    lines.append(f"-A {chain} {self._rule(table, entered, USER_CHAINS[place + 1 :])}")
            found[table] = lines
        others = Others(self._chance, self._family, spare=self._spare)
        for program in (others.kube_vip, others.kube_proxy, others.calico, others.flannel):
            if self._chance.random() < 0.3:
                for table, lines in program().items():
                    found[table] += lines
        return found

    def _pod(self) -> str:
        return some_pod(self._chance, self._who)

    def _rule(self, table: str, hook: str, deeper: tuple[str, ...]) -> str:
        conditions = [self._match(table, hook) for _ in range(self._chance.choice((1, 2, 2, 3)))]
        # One -p a rule, and the ports after it; one of each of the rest.
        kept = {_kind(each): each for each in conditions}
        ordered = sorted(kept.values(), key=lambda each: "-m" in each.split(" ")[0])
        return " ".join((*ordered, self._target(table, hook, deeper)))

    def _match(self, table: str, hook: str) -> str:
        chance, who = self._chance, self._who
        negation = chance.choice(("", "", "! "))
        port = chance.choice(PORTS)
        protocol = chance.choice(("udp", "udp", "tcp"))
        places = (who.outside_eth1, who.outside_eth0, who.server, who.pod_network, who.worker_eth1, who.peer)
        choices = [
            f"{negation}-s {self._pod()}",
            f"{negation}-d {chance.choice(places)}",
            f"-p {protocol} -m {protocol} {negation}--dport {port}",
            f"-p {protocol} -m multiport {negation}--dports {port},{chance.choice(PORTS)},100:200",
            f"{negation}-p {protocol}",
            f"{negation}-p {self._icmp[0]}",
            f"-p {self._icmp[0]} -m {self._icmp[1]} {negation}{self._icmp[2]}",
            f"-p tcp -m tcp {negation}--tcp-flags {chance.choice(('FIN,SYN,RST,ACK SYN', 'ALL SYN', 'SYN,ACK ACK'))}",
            f"-m mark {negation}--mark {chance.choice(('0x40/0x40', '0x4000/0x4000', '0x1/0x3', '0x0/0x40'))}",
        ]
        if hook in ("FORWARD", "POSTROUTING"):
            choices.append(f"{negation}-o {chance.choice(('eth0', 'eth1', 'eth+', 'veth1'))}")
        if hook in ("FORWARD", "PREROUTING"):
            choices.append(f"{negation}-i {chance.choice(('veth0', 'veth+', 'eth0'))}")
        if table != "raw" or chance.random() < 0.5:
            choices += [
                f"-m conntrack {negation}--ctstate {chance.choice(_STATES)}",
                f"-m conntrack {negation}--ctorigdst {chance.choice(places)}",
                f"-m conntrack --ctdir {chance.choice(('ORIGINAL', 'ORIGINAL', 'REPLY'))}",
                f"-m connmark {negation}--mark {chance.choice(('0x1/0x1', '0x0/0x3'))}",
                f"-m addrtype {negation}--dst-type {chance.choice(('LOCAL', 'UNICAST', 'MULTICAST'))}",
                f"-m iprange {negation}--dst-range {who.worker_eth1}-{who.outside_eth1}",
            ]
        if self._unknowns:
            choices += [
                "-m statistic --mode random --probability 0.50000000000",
                "-m limit --limit 1/sec",
                "-m length --length 0:1500",
            ]
        return chance.choice(choices)

    def _target(self, table: str, hook: str, deeper: tuple[str, ...]) -> str:
        chance, who = self._chance, self._who
        choices = ["-j RETURN", "-j ACCEPT", *(f"-{chance.choice('jjg')} {chain}" for chain in deeper)]
        if table == "mangle":
            choices += [
                "-j MARK --set-xmark 0x40/0x40",
                "-j MARK --set-xmark 0x1/0x3",
                "-j MARK --set-xmark 0x4000/0x0",
                "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
                "-j CONNMARK --set-xmark 0x1/0x3",
                f"-j {self._icmp[3]}",
                "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff",
            ]
        if table == "filter":
            choices += ["-j REJECT", f"-j REJECT --reject-with {_REFUSED[self._family]}"]
        if table == "raw":
            choices += ["-j NOTRACK", "-j CT --notrack"]
        if table in ("raw", "filter") or (table == "mangle" and hook == "POSTROUTING"):
            choices.append("-j DROP")
        if table == "nat" and hook == "POSTROUTING":
            choices += [
                "-j MASQUERADE",
                f"-j SNAT --to-source {self._spare}",
                f"-j SNAT --to-source {who.worker_eth1}",
                f"-j SNAT --to-source {self._spare} --random",
                "-j MASQUERADE --random-fully",
                f"-j NETMAP --to {_ELSEWHERE[self._family]}",
            ]
            if self._unknowns:
                choices.append(f"-j SNAT --to-source {who.worker_eth1}-{self._spare}")
        if table == "nat" and hook == "PREROUTING":
            choices += [
                f"-j DNAT --to-destination {who.outside_eth1}",
                f"-j NETMAP --to {who.server}/{32 if self._family is Family.IPV4 else 128}",
            ]
            if self._unknowns:
                choices.append("-j REDIRECT")
        if table == "nat":
            choices.append("-j MARK --set-xmark 0x4000/0x4000")
        return chance.choice(choices)
