"""The two back ends: is the right one in use, alone, and can its rules be read?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kvctl.doctor.binaries import in_use
from kvctl.doctor.finding import Finding, Level, failure, fine, from_error, warning
from kvctl.doctor.packets import judged, samples, without_nat
from kvctl.doctor.scene import Scene
from kvctl.errors import KvctlError, ProcessError
from kvctl.model.net import Family
from kvctl.model.text import one_line, plural
from kvctl.netfilter.binaries import Backend, is_installed
from kvctl.netfilter.choice import Choice, choose_backend
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.nft import IPTABLES_TABLE
from kvctl.netfilter.savetext import SavedTables
from kvctl.trace.judgement import Verdict

CHECK = "back end"
# As `choose_backend` says why.
_KUBELET, _ALONE = "kubelet uses it", "it alone holds rules"
# iptables-nft 1.8.9, with status 3, for one such rule in whatever table it is (measured).
_PARSING_FAILED = "Parsing nftables rule failed"
_TRANSLATES = re.compile(r"-j (?:MASQUERADE|SNAT|NETMAP)\b")
# Of words alone: a comment of another program may hold what a shell would run.
_SAFE = re.compile(r"[A-Za-z0-9 .,:/!_-]*")
_MOST_QUOTED = 3
_LONGEST_RULE = 300
# What iptables prints for a match or target that it knows, in a revision that it does not: another version wrote it.
_UNREADABLE = "[unsupported revision]"


def check(scene: Scene) -> Iterator[Finding]:
    """The choice against what others use, both in use at once, and rules that cannot be read."""
    unparsed = list(_unparsed(scene.reading))
    yield from unparsed
    found = scene.look
    if found is None:
        if not unparsed:
            yield from _blind(scene)
        return
    backend = found.choice.backend
    contradiction = _contradiction(scene, backend)
    if contradiction is not None:
        yield contradiction
    else:
        yield fine(CHECK, f"{backend} is in use: {found.choice.why}", evidence=_rules(scene.reading))
    others = list(_translations(scene.reading, backend.other))
    both = list(_rewritten_by_both(scene, backend)) if others else []
    yield from both
    for text in found.warnings if not unparsed and not both else ():
        seen = "; ".join(map(str, others[:_MOST_QUOTED])) or _rules(scene.reading)
        mend = f"run kvctl with {backend.other.setting}, or move the other program to the {backend} back end"
        yield warning(CHECK, text, evidence=seen, mend=_first_mend(others, backend) or mend)
    if any(site.installed.refs for site in found.others.values()):
        text = f"rules of kvctl's are in the {backend.other} back end, too, which is not in use"
        yield warning(CHECK, text, evidence=_rules(scene.reading), mend=f"{scene.apply()} (moves them)")
    for family, error in found.failed.items():
        text = f"the {family} rules cannot be read: {error.message}"
        yield warning(CHECK, text, mend=error.hint or "install the package iptables")
    yield from _unreadable(scene.reading, backend)


class _Translation(NamedTuple):
    """A rule of another program that gives packets another source."""

    backend: Backend
    family: Family
    chain: str
    text: str

    def __str__(self) -> str:
        return one_line(f"{self.backend} nat: -A {self.chain} {self.text}", longest=_LONGEST_RULE)

    @property
    def removal(self) -> str:
        """The command that removes it, or that shows it where its text is not safe to be run by a shell."""
        name = "iptables" if self.family is Family.IPV4 else "ip6tables"
        command = f"{name}-{self.backend} -t nat"
        if _SAFE.fullmatch(self.text) is None:
            return f"{command} -S {self.chain} shows it"
        return f"{command} -D {self.chain} {self.text}"


def _translations(reading: Reading, backend: Backend) -> Iterator[_Translation]:
    """All of a back end, those that every packet comes to first."""
    found = [
        _Translation(backend, family, chain, text)
        for family in Family
        if (saved := reading.tables.get((backend, family))) is not None and "nat" in saved.tables
        for chain, rules in saved.tables["nat"].chains.items()
        for _, text in rules
        if _TRANSLATES.search(text) and "kvctl:" not in text
    ]
    yield from sorted(found, key=lambda each: each.chain != "POSTROUTING")


def _first_mend(others: list[_Translation], backend: Backend) -> str | None:
    if not others:
        return None
    return (
        f"first see whose rule that is; one that nobody needs any more: {others[0].removal}; else run kvctl with "
        f"{backend.other.setting}, or move the other program to the {backend} back end"
    )


def _rewritten_by_both(scene: Scene, backend: Backend) -> Iterator[Finding]:
    """Rules of the other back end that take what a Service rewrites: each once, with the first Service."""
    ours, theirs = without_nat(scene.reading, backend.other), without_nat(scene.reading, backend)
    told = set()
    for sample in samples(scene):
        for packet in sample.packets:
            if judged(packet, ours).verdict is not Verdict.REWRITTEN:
                continue
            step = judged(packet, theirs).decided
            if step is None or step.rule is None or step.place.table != "nat" or step in told:
                continue
            told.add(step)
            rule = _Translation(backend.other, sample.policy.family, step.chain, step.rule.text)
            text = (
                f"the {backend.other} back end holds another program's rule for what pod {sample.pod} of "
                f"{sample.policy.ref} sends, too: the back end that was registered later takes a connection, and which "
                "that is cannot be read"
            )
            mend = _first_mend([rule], backend) or ""
            yield failure(CHECK, text, evidence=str(rule), mend=f"{mend}; kvctl egress verify shows who wins")


def _blind(scene: Scene) -> Iterator[Finding]:
    """Why the rules cannot be read, unless it is that there is no program, which is told elsewhere."""
    backend, error = in_use(scene), scene.blindness
    if error is None or not any(
        is_installed(each, Family.IPV4) for each in ([backend] if backend else Backend)
    ):
        return
    level = Level.FAILURE if scene.privileges.may_administer else Level.UNKNOWN
    yield from_error(CHECK, error, level=level)


def _contradiction(scene: Scene, backend: Backend) -> Finding | None:
    """What this host shows to use, where somebody has told another one."""
    if scene.told is None:
        return None
    try:
        shown: Choice = choose_backend(scene.reading, told=None)
    except KvctlError:
        return None
    if shown.backend is backend or shown.why not in (_KUBELET, _ALONE):
        return None
    text = (
        f"{backend.setting} chooses the {backend} back end, but this host uses {shown.backend}: {shown.why}"
    )
    mend = f"set {shown.backend.setting}, or unset it"
    # Of translations in both the one registered later wins; where kubelet is, others translate, too.
    level = Level.FAILURE if shown.why == _KUBELET else Level.WARNING
    return Finding(CHECK, level, text, _rules(scene.reading), mend)


def _rules(reading: Reading) -> str:
    """How many rules each back end holds."""
    counts = {
        (backend, family): sum(
            len(rules) for table in saved.tables.values() for rules in table.chains.values()
        )
        for (backend, family), saved in reading.tables.items()
    }
    return ", ".join(f"{b} {f}: {plural(n, 'rule')}" for (b, f), n in counts.items())


def _unreadable(reading: Reading, backend: Backend) -> Iterator[Finding]:
    for family in Family:
        saved = reading.tables.get((backend, family))
        if saved is None:
            continue
        for table in sorted(saved.incompatible):
            place = IPTABLES_TABLE[family][0]
            text = f"native nft rules in table {place} {table} hide its rules from iptables ({family})"
            mend = f"nft list table {place} {table}; they belong in a table of their own"
            yield warning(CHECK, text, evidence=f"iptables-save: table {table} is incompatible", mend=mend)
        yield from _skewed(saved, family)


def _unparsed(reading: Reading) -> Iterator[Finding]:
    """Back ends that cannot be read at all for one rule that this version does not know."""
    for (backend, family), error in reading.failed.items():
        if isinstance(error, ProcessError) and _PARSING_FAILED in error.stderr:
            text = (
                f"iptables-{backend} cannot read this host's {family} rules: a newer version, or nft itself, "
                "wrote some that this one does not know"
            )
            mend = "install iptables of at least the newest version in use; nft list ruleset shows the rules"
            yield failure(CHECK, text, evidence=one_line(error.stderr, longest=300), mend=mend)


def _skewed(saved: SavedTables, family: Family) -> Iterator[Finding]:
    lines = [
        f"-A {chain} {text}"
        for table in saved.tables.values()
        for chain, rules in table.chains.items()
        for _, text in rules
        if _UNREADABLE in text
    ]
    if lines:
        text = (
            f"{plural(len(lines), 'rule')} ({family}) cannot be read by this version of iptables: "
            "a newer one, or another kernel's, wrote them"
        )
        evidence = one_line(lines[0], longest=200)
        yield warning(
            CHECK, text, evidence=evidence, mend="install iptables of at least the host's newest version"
        )
