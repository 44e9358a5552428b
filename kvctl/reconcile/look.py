"""One look at everything: both families of both back ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.model.ref import ServiceRef
from kvctl.netfilter.binaries import Backend, is_installed
from kvctl.netfilter.choice import Choice, choose_backend
from kvctl.netfilter.foreign import ForeignEgress, kube_vip_rules
from kvctl.netfilter.kernel import Reading, read_everything
from kvctl.policy.compile import Entry
from kvctl.policy.decode import Installed
from kvctl.reconcile.expected import Expected
from kvctl.reconcile.site import Site, open_site


class Look(NamedTuple):
    """What was found: the sites of the back end in use and of the other one."""

    choice: Choice
    sites: dict[Family, Site]
    others: dict[Family, Site]
    foreign: dict[Family, list[ForeignEgress]]
    warnings: tuple[str, ...]
    failed: dict[Family, KvctlError]
    """Families whose rules could not be read: IPv6 where the host has none."""
    others_failed: dict[Family, KvctlError]
    """The same of the back end that is not in use, where it is installed."""
    nft_chains: str
    """What `nft -j list chains` printed."""
    overrides: dict[Family, tuple[Sequence[Entry], str | None]]
    """The pods that it was last asked for, and what was found of other base chains: asked once a run."""

    @property
    def services(self) -> set[ServiceRef]:
        """Every Service that has rules now, in either back end and family."""
        sites = (*self.sites.values(), *self.others.values())
        return {ref for site in sites for ref in site.installed.refs}

    def renew(self) -> None:
        """What was found last is where the next run begins."""
        for site in (*self.sites.values(), *self.others.values()):
            site.before, site.before_installed = site.snapshot, site.installed

    def frozen(self) -> Look:
        """The same as it is now, whatever is written and read again afterwards."""
        from copy import copy

        sites = {family: copy(site) for family, site in self.sites.items()}
        others = {family: copy(site) for family, site in self.others.items()}
        return self._replace(sites=sites, others=others)

    def shows_the_same_as(self, other: Look) -> bool:
        """Whether the other is still the very same look: nothing was written or read since."""
        return all(
            its[family].snapshot is there[family].snapshot
            for its, there in ((self.sites, other.sites), (self.others, other.others))
            for family in its
        )

    def in_other(self, family: Family) -> Installed | None:
        """What the back end that is not in use held."""
        return self.others[family].before_installed if family in self.others else None


def look(
    *,
    told: bool | None,
    read: Callable[[], Reading] = read_everything,
    expect: Callable[[Family], Expected] | None = None,
) -> Look:
    """Read everything once. Raises NetfilterUnavailableError where the back end in use cannot be read.

    `expect`: what is wanted, so that it is known at once where it is there.
    """
    reading = read()
    choice = choose_backend(reading, told=told)
    backend = choice.backend
    sites: dict[Family, Site] = {}
    others: dict[Family, Site] = {}
    failed: dict[Family, KvctlError] = {}
    others_failed: dict[Family, KvctlError] = {}
    warnings: list[str] = []
    for family in Family:
        try:
            sites[family] = open_site(reading, backend, family, expect=expect)
        except KvctlError as error:
            if family is Family.IPV4:
                raise
            failed[family] = error
        try:
            others[family] = open_site(reading, backend.other, family)
        except KvctlError as error:
            if is_installed(backend.other, family):
                others_failed[family] = error
                warnings.append(f"the {backend.other} back end could not be read: {error}")
    warnings += _foreign_rules_in_other(reading, backend)
    return Look(
        choice=choice,
        sites=sites,
        others=others,
        foreign={f: kube_vip_rules(reading.tables[backend, f]) for f in sites},
        warnings=tuple(warnings),
        failed=failed,
        others_failed=others_failed,
        nft_chains=reading.nft_chains,
        overrides={},
    )


def _foreign_rules_in_other(reading: Reading, backend: Backend) -> Iterable[str]:
    """One warning if the back end not in use holds source translations of other programs."""
    for family in Family:
        saved = reading.tables.get((backend.other, family))
        if saved is None:
            continue
        nat = saved.tables.get("nat")
        texts = [text for rules in (nat.chains.values() if nat else ()) for _, text in rules]
        if any(("-j MASQUERADE" in text or "-j SNAT" in text) and "kvctl:" not in text for text in texts):
            yield (
                f"the {backend.other} back end holds other programs' source translations too: of the two, the one "
                f"registered later takes a connection; if that is wrong here, choose {backend.other.setting}"
            )
            return
