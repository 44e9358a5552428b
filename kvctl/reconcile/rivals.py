"""Whether another program may translate the source of what these pods send where kvctl's own jump does come first."""

from __future__ import annotations

import json
from itertools import pairwise

from kvctl.model.net import host_network
from kvctl.model.rules import Table
from kvctl.model.snapshot import FoundRule, Snapshot
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.nft import read_objects
from kvctl.netfilter.overrides import find_override
from kvctl.netfilter.position import rule_in_the_way
from kvctl.netfilter.syntax import tokenize
from kvctl.reconcile.look import Look
from kvctl.reconcile.side_by_side import short
from kvctl.reconcile.site import Site

_LATER = " translates what iptables does not"
# NF_IP_PRI_NAT_SRC (netfilter_ipv4.h): where both iptables back ends hook POSTROUTING of the nat table.
_SRCNAT = 100
_LEAVING = ("ACCEPT", "RETURN")


def find_rival(found: Look, site: Site) -> str | None:
    """The sentence that names a rule or chain that may be asked before the site's own POSTROUTING; None: there is none.

    What surely comes first is `override_at`, and what comes first within POSTROUTING is `rule_in_the_way`. Of the two
    back ends, and of native nft chains beside the legacy one, the one registered later takes a connection.
    """
    pods = [host_network(address) for address in {item.address for item in site.installed.entries}]
    if not pods or site.kernel.backend is not found.choice.backend:
        return None
    other = found.others.get(site.family)
    rule = rule_in_the_way(_translating(other.snapshot), pods) if other is not None else None
    if other is not None and rule is not None:
        return (
            f"another program's rule in POSTROUTING of the {other.kernel.backend} back end may take these pods' "
            f"traffic first: {short(rule)}; remove it, or choose {other.kernel.backend.setting}"
        )
    if site.kernel.backend is Backend.NFT:
        return None
    chain = find_override(
        backend=site.kernel.backend,
        family=site.family,
        pods=pods,
        nft_chains=_of_equal_priority(found.nft_chains),
        later_too=True,
    )
    if chain is None:
        return None
    return (
        f"{chain.removesuffix(_LATER)} takes these pods' traffic before iptables' rules are asked, if it was "
        "registered later than they: which was, cannot be read of the legacy back end"
    )


def _of_equal_priority(nft_chains: str) -> str:
    """`nft -j list chains` without the chains that are asked after iptables' own, or before it."""
    entries = (entry for entry in read_objects(nft_chains) if "chain" in entry)
    equal = [entry for entry in entries if entry["chain"].get("prio") == _SRCNAT]
    return json.dumps({"nftables": equal})


def _translating(snapshot: Snapshot) -> Snapshot:
    """Without the rules that only end the walk through POSTROUTING: what comes after them may be for other packets."""
    beside = snapshot.beside(Table.NAT)
    chains = {name: tuple(filter(_goes_on, rules)) for name, rules in beside.hook_chains.items()}
    return snapshot._replace(around={**snapshot.around, Table.NAT: beside._replace(hook_chains=chains)})


def _goes_on(found: FoundRule) -> bool:
    return not any(option == "-j" and target in _LEAVING for option, target in pairwise(tokenize(found.text)))
