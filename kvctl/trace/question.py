"""A question about one packet, put to the kernel of this network namespace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kvctl.errors import InputError, KvctlError, UsageError
from kvctl.model.host import Host
from kvctl.model.net import Address, family_of, host_network
from kvctl.netfilter.binaries import Backend, is_installed
from kvctl.netfilter.conntrack import dump
from kvctl.netfilter.kernel import Reading, read_everything
from kvctl.netfilter.native import ask_ruleset, corrected, read_ruleset, rewriting_beside
from kvctl.netfilter.nft import Json, read_objects
from kvctl.netfilter.overrides import find_override
from kvctl.node.host import read_host
from kvctl.node.lookup import Sought, look_up
from kvctl.trace.facts import kernels_facts
from kvctl.trace.judge import judge
from kvctl.trace.judgement import Judgement, Verdict
from kvctl.trace.packet import Packet, Question, first_packet

_IPVS = "kube-ipvs0"
_CONNTRACK = Path("/proc/sys/net/netfilter")
_OPAQUE = ("raw", "mangle", "nat")
_HOOKS = ("prerouting", "forward", "postrouting", "ingress", "egress")
_FAMILIES = {4: ("ip", "inet", "netdev"), 6: ("ip6", "inet", "netdev")}
_TABLES = ("raw", "mangle", "nat", "filter", "security")


def trace(question: Question) -> Judgement:
    """What becomes of such a packet of a pod now.

    Raises KvctlError: UsageError for ends that no forwarded packet has, InputError for a source that is no pod's,
    NetfilterUnavailableError, NetlinkError.
    """
    source, destination = question.source, question.destination
    _check_ends(source, destination)
    notes: list[str] = []
    if question.in_interface is None:
        interface, notes = _interface_of(source)
        question = question._replace(in_interface=interface)
    packet = first_packet(question)
    asked = ask_ruleset()
    reading, unknown = _as_it_is(read_everything(), read_ruleset(asked), packet)
    family = packet.family
    flows = dump(family=family, sources=(host_network(source),), reply_destinations=(destination,))
    unknown += _unreadable(reading, packet)
    judged = judge(packet, reading, kernels_facts(), flows)
    notes += [*judged.notes, *_beside(reading, packet)]
    host = read_host()
    judged = replace(judged, trouble=_trouble(judged, host))
    notes += _elsewhere(judged, host)
    override = _override(reading, packet, judged)
    unknown += [text for text in (override, _taken_by_ipvs(judged)) if text is not None]
    if not unknown:
        return replace(judged, notes=tuple(notes))
    return replace(
        judged, notes=tuple(notes), verdict=None, source=None, trouble="", unknown=(*judged.unknown, *unknown)
    )


def _check_ends(source: Address, destination: Address) -> None:
    if source.version != destination.version:
        raise UsageError(
            f"{source} and {destination} are not of one address family",
            hint="give two IPv4 addresses, or two IPv6 addresses",
        )
    for end in (source, destination):
        if end.is_loopback or end.is_unspecified:
            what = "the loopback" if end.is_loopback else "no host's"
            raise UsageError(
                f"{end} is {what} address: what a pod sends there stays in the pod",
                hint="give the address that other hosts know",
            )
    if destination.is_multicast:
        raise UsageError(
            f"{destination} is a multicast address, which is never rewritten to",
            hint="give the address of one host",
        )
    # RFC 4291, 2.5.6: routers do not send on what is from or to such an address. In IPv4 Linux does.
    for end in (source, destination):
        if end.version == 6 and end.is_link_local:
            raise UsageError(
                f"{end} is a link-local address: nothing sends it on to another link",
                hint="give the address that other hosts know",
            )


def _interface_of(source: Address) -> tuple[str, list[str]]:
    """The interface that packets of this pod come in by: that of the route to it."""
    answer = look_up(Sought(destination=source))
    if answer.kind == "local":
        raise InputError(
            f"{source} is an address of this node, not of a pod",
            hint="pods on the host network leave as the node, and are never rewritten: give the address of another",
        )
    if answer.interface is None:
        raise InputError(
            f"there is no route to {source} on this node",
            hint="run this on the node that the pod is on, or name the interface by --in-interface",
        )
    if answer.gateway is None:
        return answer.interface, []
    note = f"the route to {source} leads to {answer.gateway} by {answer.interface}: is the pod on this node?"
    return answer.interface, [note]


def _as_it_is(reading: Reading, ruleset: list[Json], packet: Packet) -> tuple[Reading, list[str]]:
    """The rules with what iptables-save says wrong of them made unknown, and what no rule can show."""
    key, families = (Backend.NFT, packet.family), _FAMILIES[packet.source.version]
    unknown = list(dict.fromkeys(rewriting_beside(ruleset, families=families, own=_TABLES)))
    if key not in reading.tables:
        return reading, unknown
    saved, changed = corrected(reading.tables[key], ruleset, family=packet.family)
    return reading._replace(tables={**reading.tables, key: saved}), [*unknown, *changed]


def _unreadable(reading: Reading, packet: Packet) -> Iterable[str]:
    """What of the rules cannot be read, where it may change the verdict."""
    for (backend, family), error in reading.failed.items():
        # iptables-legacy is asked only where legacy tables exist.
        if family is packet.family and (backend is Backend.LEGACY or is_installed(backend, family)):
            yield f"the rules of the {backend} back end cannot be read: {error}"
    if not any(family is packet.family for _, family in reading.tables):
        errors = (error for (_, family), error in reading.failed.items() if family is packet.family)
        raise next(errors, KvctlError(f"no {packet.family} rules could be read"))
    for (_, family), saved in reading.tables.items():
        if family is packet.family:
            for table in sorted(saved.incompatible.intersection(_OPAQUE)):
                yield f"the {table} table holds native nft rules, which hide all its rules from iptables-save"


def _beside(reading: Reading, packet: Packet) -> Iterable[str]:
    """What is beside the rules that were read, and may take the packet."""
    for (_, family), saved in reading.tables.items():
        if family is packet.family:
            for table in sorted(saved.incompatible.difference(_OPAQUE)):
                yield f"the {table} table holds native nft rules: whether they drop the packet is not judged"
    if not is_installed(Backend.NFT, packet.family):
        yield "iptables-nft is not installed: rules of the nf_tables back end are not seen"
    for chain in (entry["chain"] for entry in read_objects(reading.nft_chains) if "chain" in entry):
        hook, family = chain.get("hook"), chain.get("family")
        if hook not in _HOOKS or family not in _FAMILIES[packet.source.version]:
            continue
        ours = family in ("ip", "ip6") and chain.get("table") in _TABLES and str(chain.get("name")).isupper()
        if not ours:
            yield (
                f"nft chain {chain.get('name')} of table {family} {chain.get('table')} ({chain.get('type')}, {hook}) "
                "is beside iptables and is not judged"
            )


def _override(reading: Reading, packet: Packet, judged: Judgement) -> str | None:
    """The native nft chain that may translate the source of the packet instead of iptables' rules, or after them."""
    if not judged.leaves or judged.flow is not None or not reading.nft_chains:
        return None
    step = judged.decided
    by_legacy = step is not None and step.place.backend == str(Backend.LEGACY)
    # Which of them was registered later than a legacy table cannot be read.
    return find_override(
        backend=Backend.NFT,
        family=family_of(packet.source),
        pods=(host_network(packet.source),),
        nft_chains=reading.nft_chains,
        later_too=judged.verdict is Verdict.UNCHANGED or by_legacy,
    )


def _trouble(judged: Judgement, host: Host) -> str:
    """What keeps it from leaving all the same, or answers from coming back, as far as this node is concerned."""
    if not judged.leaves or judged.source is None or judged.destination is None or judged.interface is None:
        return ""
    fault = host.fault_of(judged.interface) or _no_room(judged)
    if fault is not None:
        return fault
    source, pod = judged.source, judged.packet.source
    if source != pod and look_up(Sought(destination=source)).kind != "local":
        return f"no interface of this node has {source}: answers come back only if something else leads them here"
    fault = host.fault_of(_holder(judged, host) or judged.interface)
    if fault is not None:
        return f"{source} is on {_holder(judged, host)}, and {fault}: answers do not come back by it"
    if source != pod and (parked := _parked(source, host)):
        return parked
    # What was translated is the pod's again before it is routed.
    back = look_up(Sought(destination=pod, source=judged.destination, iif=judged.interface))
    return f"answers do not come back: {back.reason}" if back.kind == "refused" else ""


def _parked(source: Address, host: Host) -> str:
    """That an address is here only where it makes this node no holder of it."""
    entries = host.having(source)
    if not entries or any(each.serves for each in entries):
        return ""
    if entries[0].duplicate:
        return f"another host has {source}: duplicate address detection has failed on {entries[0].interface}"
    only = f"{source} is only on {entries[0].interface}, where others do not look for it"
    return f"{only}: answers come back only if something else leads them here"


def _elsewhere(judged: Judgement, host: Host) -> list[str]:
    """That it leaves by another interface than the one that has its source, which may be meant."""
    holder = _holder(judged, host)
    if holder is None or holder == judged.interface or host.fault_of(holder) is not None:
        return []
    said = f"it leaves by {judged.interface}, while {judged.source} is on {holder}: a route or an ip rule says so"
    return [f"{said}, and answers come back by {holder}, or where the network leads them"]


def _holder(judged: Judgement, host: Host) -> str | None:
    """The interface on which others reach the source that it was given; None: it has its own, or there is none."""
    if not judged.leaves or judged.source is None or judged.source == judged.packet.source:
        return None
    serving = [each.interface for each in host.having(judged.source) if each.serves]
    return judged.interface if judged.interface in serving else next(iter(serving), None)


def _no_room(judged: Judgement) -> str | None:
    """That conntrack's table is full: what needs a new entry is dropped unless an old one can go."""
    exempt = judged.decided is not None and judged.decided.place.table == "raw"
    if judged.flow is not None or exempt:
        return None
    try:
        count, most = (
            int((_CONNTRACK / f"nf_conntrack_{name}").read_text(encoding="ascii"))
            for name in ("count", "max")
        )
    except (OSError, ValueError):
        return None
    full = 0 < most <= count
    return f"the table of connections is full ({count} of {most}): new ones are dropped" if full else None


def _taken_by_ipvs(judged: Judgement) -> str | None:
    """Why what seems to end at this node may go on: kube-proxy in IPVS mode binds every ClusterIP here."""
    if judged.verdict is not Verdict.DELIVERED or judged.destination is None:
        return None
    if all(each.interface != _IPVS for each in read_host().having(judged.destination)):
        return None
    return f"{judged.destination} is on {_IPVS}: which back end IPVS sends it to is not read"
