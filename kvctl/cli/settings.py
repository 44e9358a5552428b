"""How flag, environment and default become settings: the flag comes first, then the variable, and each is checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kvctl.errors import KvctlError, UsageError
from kvctl.model.net import Network, parse_network
from kvctl.model.ref import ServiceRef
from kvctl.model.text import quote

if TYPE_CHECKING:
    from kvctl.election.terms import Terms
    from kvctl.model.policy import WithoutVip
    from kvctl.model.settings import Settings
    from kvctl.model.way import MarkSpace

# RFC 1123: a namespace and a Service are labels, a node is a subdomain. Compiled by those who are given one.
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_INTERFACE = r"[A-Za-z0-9_.@-]{1,15}"
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def environment_bool(name: str) -> bool | None:
    """A switch from the environment; empty is unset. Raises UsageError for anything but true and false."""
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise UsageError(
        f"environment variable {name}: {quote(value)} is neither true nor false",
        hint=f"set {name}=true, {name}=false, or unset it",
    )


def told_backend(flag: bool | None) -> bool | None:
    """True nft, false legacy, None nobody says."""
    return flag if flag is not None else environment_bool("egress_withnftables")


def told_keep_connections(flag: bool | None) -> bool:
    """Whether connections are left alone."""
    return bool(flag if flag is not None else environment_bool("egress_keepconnections"))


def told_assume_vip(flag: bool | None) -> bool:
    """Whether the VIP counts as being here without an address on an interface."""
    return bool(flag if flag is not None else environment_bool("egress_assumevip"))


def told_without_vip(flag: str | None) -> WithoutVip:
    """What becomes of traffic where the VIP is not. Raises UsageError for a value that is none."""
    from kvctl.model.policy import WithoutVip

    text = flag if flag is not None else os.environ.get("egress_withoutvip", "").strip()
    if not text:
        return WithoutVip.NODE_ADDRESS
    try:
        return WithoutVip(text)
    except ValueError:
        accepted = " nor ".join(WithoutVip)
        raise UsageError(
            f"environment variable egress_withoutvip: {quote(text)} is neither {accepted}",
            hint="set egress_withoutvip=drop, egress_withoutvip=node-address, or unset it",
        ) from None


def this_node(flag: str | None) -> str:
    """The name of the node kvctl runs on."""
    told = _told("--node", flag, "NODE_NAME", "vip_nodename", form=_SUBDOMAIN, what="the name of a Node")
    return told or os.uname().nodename.lower()


def _told(flag: str, value: str | None, *variables: str, form: str, what: str) -> str | None:
    """The flag's value, else the first variable that is not empty; raises UsageError naming where it came from."""
    places = ((flag, value), *((f"environment variable {v}", os.environ.get(v)) for v in variables))
    for where, text in places:
        if text or (text is not None and where == flag):
            if not re.fullmatch(form, text):
                raise UsageError(f"{where}: {quote(text)} is not {what}")
            return text
    return None


def read_settings(
    networks: Mapping[str, Sequence[str]],
    *,
    node: str | None,
    only_here: bool,
    interface: str | None,
    assume_vip: bool | None = None,
    without_vip: str | None = None,
) -> Settings:
    """Flag, else environment, else default.

    `networks`: what the options of that name gave. `only_here`: without --node only this node's pods count.
    """
    from kvctl.model.settings import Settings

    told_interface = _told(
        "--interface",
        interface,
        "vip_servicesinterface",
        "vip_interface",
        form=_INTERFACE,
        what="the name of a network interface",
    )
    here = this_node(node)
    exclude_nodes = environment_bool("egress_excludenodes")
    return Settings(
        pod_cidrs=_networks("--pod-cidr", networks["pod_cidrs"], "egress_podcidr"),
        service_cidrs=_networks("--service-cidr", networks["service_cidrs"], "egress_servicecidr"),
        exclude_cidrs=_networks("--exclude-cidr", networks["exclude_cidrs"], "egress_excludecidrs"),
        exclude_nodes=exclude_nodes is not False,
        vip_ranges=_networks("--vip-range", networks["vip_ranges"], "egress_vipranges", may_be_all=True),
        node=here if node is not None or only_here else None,
        this_node=here,
        assume_vip=told_assume_vip(assume_vip),
        without_vip=told_without_vip(without_vip),
        interface=told_interface,
        space=told_space(),
    )


def told_space() -> MarkSpace:
    """The marks, routing tables and rule priorities that the environment leaves to kvctl. Raises UsageError."""
    from kvctl.model.way import DEFAULT_SPACE, mark_space

    return mark_space(
        mask=_number("egress_fwmark_mask", DEFAULT_SPACE.mask),
        first_table=_number("egress_route_table", DEFAULT_SPACE.first_table),
        priority=_number("egress_rule_priority", DEFAULT_SPACE.priority),
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,8}|[0-9]{1,10}", text):
        raise UsageError(
            f"environment variable {variable}: {quote(text)} is not a number",
            hint=f"write it like {default:#x} or {default}",
        )
    return int(text, 16 if text.startswith("0x") else 10)


def _networks(
    flag: str, values: Sequence[str], variable: str, *, may_be_all: bool = False
) -> tuple[Network, ...]:
    where = flag
    if not values:
        where = f"environment variable {variable}"
        values = [v.strip() for v in os.environ.get(variable, "").split(",") if v.strip()]
    found: list[Network] = []
    for value in (part.strip() for text in values for part in text.split(",")):
        try:
            if "/" not in value:
                raise ValueError(value)
            network = parse_network(value)
        except ValueError:
            raise UsageError(
                f"{where}: {quote(value)} is not a network in CIDR notation",
                hint="write it like 10.244.0.0/16 or fd00:10:244::/56, without bits set behind the length",
            ) from None
        if network.prefixlen == 0 and not may_be_all:
            raise UsageError(f"{where}: {network} is every address: nothing would ever be rewritten")
        found.append(network)
    return tuple(dict.fromkeys(found))


def parse_services(
    names: Sequence[str], *, namespace: str | None, kubeconfig: str | None, context: str | None
) -> frozenset[ServiceRef] | None:
    """The Services named on the command line; None: none, which means all.

    A bare NAME lies in `namespace`, else in that of the kubeconfig's context, else in `default`.
    """
    if not names:
        return None
    if namespace is not None and not re.fullmatch(_LABEL, namespace):
        raise UsageError(f"--namespace: {quote(namespace)} is not the name of a namespace")
    refs = set()
    for name in names:
        where, slash, what = name.rpartition("/")
        if not slash:
            where = namespace or _context_namespace(kubeconfig=kubeconfig, context=context) or "default"
        if not (re.fullmatch(_LABEL, where) and re.fullmatch(_LABEL, what)):
            raise UsageError(
                f"{quote(name)} is not a Service: it is written NAMESPACE/NAME, or NAME with -n NAMESPACE",
                hint="to read a file: -f FILE" if os.path.exists(name) else "see: kvctl egress list",
            )
        refs.add(ServiceRef(where, what))
    return frozenset(refs)


def _context_namespace(*, kubeconfig: str | None, context: str | None) -> str | None:
    from kvctl.cluster.kubeconfig import default_namespace

    try:
        return default_namespace(kubeconfig=kubeconfig, context=context)
    except KvctlError:
        if kubeconfig is not None or context is not None:
            raise
        return None


def electing(settings: Settings, terms: Terms | None) -> Settings:
    """The settings of who holds VIPs by Lease, with the fence that rules need then; `terms` None: nobody does."""

    from kvctl.netfilter import fence

    if terms is None:
        return settings
    seconds = int(terms.renew_deadline) if fence.obstacle() is None else None
    return settings._replace(elects=True, fence_seconds=seconds)
