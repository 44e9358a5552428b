"""Which changes of the real kernel's rules are told, on both back ends, and which of them are our own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvctl.errors import NetfilterUnavailableError
from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter import watching as watching_module
from kvctl.netfilter.binaries import Backend, Role, binary
from kvctl.netfilter.kernel import Kernel, Write
from kvctl.netfilter.legacy_tables import LegacyTables, comment_of
from kvctl.netfilter.watching import RuleChanges
from tests.marks import Marks

OURS = """\
*nat
:KUBE-POSTROUTING - [0:0]
:KVCTL-EGRESS - [0:0]
:KVCTL-SVC-A - [0:0]
-I POSTROUTING 1 -m comment --comment "kvctl:x" -j KVCTL-EGRESS
-A POSTROUTING -j KUBE-POSTROUTING
-A KVCTL-EGRESS -s {net} -g KVCTL-SVC-A
-A KVCTL-EGRESS -j RETURN
-A KVCTL-SVC-A -p udp -m udp --dport 5060 -j SNAT --to-source {vip}
COMMIT
*mangle
:KVCTL-DROP - [0:0]
-A POSTROUTING -j KVCTL-DROP
COMMIT
"""
ADDRESSES = {
    Family.IPV4: {"net": "10.0.0.0/24", "vip": "192.0.2.1"},
    Family.IPV6: {"net": "fd00::/64", "vip": "2001:db8::1"},
}


@dataclass
class Watched:
    """A namespace with rules of ours and of others in one family, and what is told of it, without a thread."""

    namespace: Namespace
    backend: str
    family: Family
    changes: RuleChanges
    directory: Path = Path()

    def run(self, *argv: str, stdin: str | None = None) -> None:
        done = self.namespace.run(argv, stdin=stdin)
        assert done.status == 0, (argv, done.stderr)

    def iptables(self, line: str) -> None:
        name = "iptables" if self.family is Family.IPV4 else "ip6tables"
        self.run(f"{name}-{self.backend}", "-w", "10", *line.split())

    def restore(self, text: str) -> None:
        name = "iptables" if self.family is Family.IPV4 else "ip6tables"
        filled = text.format(**ADDRESSES[self.family])
        self.run(f"{name}-{self.backend}-restore", "--noflush", "-w", "10", stdin=filled)

    def write(self, text: str) -> Write:
        """As kvctl itself does."""
        with self.namespace.entered():
            return Kernel(Backend(self.backend)).write(self.family, text.format(**ADDRESSES[self.family]))

    def told(self) -> bool:
        """Whether the thread would notify now."""
        changes = self.changes._changes
        if isinstance(changes, watching_module._NftChanges):
            return changes._news._hear() is not None
        with self.namespace.entered():
            return any([changes._compare(family) for family in Family])  # noqa: C419 (looks at all)


@pytest.fixture
def watched(namespace: Namespace, backend: str, family: Family, tmp_path: Path) -> Iterator[Watched]:
    with namespace.entered():
        changes = RuleChanges(Backend(backend), Marks())
    watched = Watched(namespace, backend, family, changes, tmp_path)
    watched.restore(OURS)
    assert watched.told()
    assert not watched.told()
    yield watched
    changes.stop()


@pytest.mark.parametrize(
    "damage",
    [
        "-t nat -F",
        "-t nat -F KVCTL-SVC-A",
        "-t nat -D KVCTL-EGRESS -j RETURN",
        "-t nat -D KVCTL-EGRESS 1",
        "-t nat -D POSTROUTING 1",
        "-t nat -I POSTROUTING -j ACCEPT",
        "-t nat -I POSTROUTING -j KUBE-POSTROUTING",
        "-t nat -A POSTROUTING -j MASQUERADE",
        "-t nat -A KVCTL-SVC-A -j RETURN",
        "-t nat -R KVCTL-EGRESS 2 -j ACCEPT",
        "-t nat -E KVCTL-SVC-A KVCTL-SVC-B",
        "-t mangle -F",
        "-t mangle -D POSTROUTING -j KVCTL-DROP",
        "-t mangle -A KVCTL-DROP -j DROP",
        "-t mangle -I PREROUTING -j ACCEPT",
    ],
)
def test_damage_is_told_once(watched: Watched, damage: str) -> None:
    watched.iptables(damage)
    assert watched.told()
    assert not watched.told()


def test_a_rule_put_into_another_order_is_told(watched: Watched) -> None:
    watched.restore("*nat\n-D POSTROUTING -j KUBE-POSTROUTING\n-I POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n")
    assert watched.told()


def test_other_programs_own_chains_are_passed_over(watched: Watched) -> None:
    watched.restore(
        "*nat\n:KUBE-AAA - [0:0]\n:KUBE-SVC-B - [0:0]\n-A KUBE-SVC-B -s {net} -j KUBE-AAA\n"
        "-A KUBE-POSTROUTING -j MASQUERADE\n-A PREROUTING -j KUBE-AAA\nCOMMIT\n"
        "*mangle\n:KUBE-CANARY - [0:0]\n-A FORWARD -j KUBE-CANARY\nCOMMIT\n"
    )
    assert not watched.told()
    watched.restore("*nat\n:KUBE-SVC-B - [0:0]\n-X KUBE-SVC-B\n-F PREROUTING\n-X KUBE-AAA\nCOMMIT\n")
    assert not watched.told()
    watched.iptables("-t filter -A FORWARD -j ACCEPT")
    watched.told()  # nft: a table that is new
    watched.iptables("-t filter -A FORWARD -j ACCEPT")
    assert not watched.told()


def test_looking_is_no_change(watched: Watched) -> None:
    watched.iptables("-t nat -S")
    with watched.namespace.entered():
        Kernel(Backend(watched.backend)).read(watched.family)
    assert not watched.told()


def test_counters_are_no_change(watched: Watched) -> None:
    watched.restore("*nat\n-I POSTROUTING -j RETURN\n-I OUTPUT -j RETURN\nCOMMIT\n")
    assert watched.told()
    watched.run("ping", "-c", "1", "-W", "1", "127.0.0.1" if watched.family is Family.IPV4 else "::1")
    assert not watched.told()


def test_own_writes_are_not_told(watched: Watched) -> None:
    with watched.changes.own_writes():
        for _ in range(3):
            watched.write("*nat\n:KVCTL-SVC-A - [0:0]\n-A KVCTL-SVC-A -j RETURN\nCOMMIT\n")
        watched.write("*mangle\n:KVCTL-DROP - [0:0]\nCOMMIT\n")
        assert not watched.told() or watched.backend == "legacy"
    assert not watched.told()
    watched.write("*nat\n-A KVCTL-SVC-A -j RETURN\nCOMMIT\n")
    assert watched.told(), "a write outside the block is anybody's"


def test_what_comes_after_the_last_own_write_is_told_at_the_end_of_the_block(watched: Watched) -> None:
    marks = _marks_of(watched)
    with watched.changes.own_writes():
        watched.write("*nat\n:KVCTL-SVC-A - [0:0]\nCOMMIT\n")
        watched.iptables("-t nat -F POSTROUTING")
        heard = watched.backend == "nft" and watched.told()
        assert not heard
        assert len(marks) == 0
    assert len(marks) == 1 if watched.backend == "nft" else watched.told()


def test_what_others_do_in_the_other_family_meanwhile_is_told(watched: Watched) -> None:
    marks = _marks_of(watched)
    other = next(family for family in Family if family is not watched.family)
    with watched.changes.own_writes():
        Watched(watched.namespace, watched.backend, other, watched.changes).restore(OURS)
        watched.write("*nat\n:KVCTL-SVC-A - [0:0]\nCOMMIT\n")
    assert watched.told() or len(marks) == 1


def test_a_change_before_an_own_write_is_told_unless_that_is_read_anyway(watched: Watched) -> None:
    marks = _marks_of(watched)
    with watched.changes.own_writes():
        watched.iptables("-t nat -F KVCTL-SVC-A")
        watched.write("*nat\n-A KVCTL-SVC-A -j RETURN\nCOMMIT\n")
    if watched.backend == "nft":  # who writes undisturbed need not read
        assert watched.told() or len(marks) == 1
    else:
        assert not watched.told()


ALONE = """\
*nat
:KVCTL-SVC-A - [0:0]
-A KVCTL-SVC-A -p tcp -m comment --comment "kvctl:one" -j SNAT --to-source {vip}
-A KVCTL-SVC-A -m comment --comment "kvctl:two" -j RETURN
COMMIT
"""


def look(watched: Watched) -> None:
    """As kvctl itself does."""
    with watched.namespace.entered():
        Kernel(Backend(watched.backend)).read(watched.family)


def test_a_write_that_nobody_disturbs_is_alone_and_not_told(watched: Watched) -> None:
    with watched.changes.own_writes():
        look(watched)
        assert watched.write(ALONE).alone
        assert watched.write(ALONE.replace("-p tcp ", "").replace(":one", ":other")).alone, "the next, too"
        assert watched.write("*nat\n:KVCTL-SVC-B - [0:0]\nCOMMIT\n").alone
        assert watched.write("*nat\n:KVCTL-SVC-B - [0:0]\n-X KVCTL-SVC-B\nCOMMIT\n").alone
    assert not watched.told()
    with watched.changes.own_writes():
        assert watched.write(ALONE).alone, "without a look, because nothing happened since"
    assert not watched.told()


@pytest.mark.parametrize("backend", ["legacy"])
def test_a_write_without_a_look_before_it_is_not_known_to_be_alone(watched: Watched) -> None:
    with watched.changes.own_writes():
        assert not watched.write(ALONE).alone
        assert not watched.write(ALONE.replace(":one", ":other")).alone, "nor the next"
        look(watched)
        assert watched.write(ALONE).alone
    assert not watched.write(ALONE.replace(":one", ":other")).alone, "nobody watches"


FOREIGN = {
    "in a chain of ours": "-t nat -A KVCTL-EGRESS -j RETURN",
    "in POSTROUTING": "-t nat -A POSTROUTING -j MASQUERADE",
    "in mangle": "-t mangle -A KVCTL-DROP -j DROP",
    "in PREROUTING": "-t mangle -A PREROUTING -j RETURN",
    "of a policy": "-t mangle -P POSTROUTING DROP",
    "by a chain of ours": "-t nat -N KVCTL-NEW",
    "by a chain renamed": "-t nat -E KVCTL-SVC-A KVCTL-SVC-B",
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_change_between_the_look_and_a_write_is_told_or_the_write_was_not_alone(
    watched: Watched, change: str
) -> None:
    marks = _marks_of(watched)
    with watched.changes.own_writes():
        look(watched)
        watched.iptables(change)
        alone = watched.write(ALONE).alone
    assert alone is (watched.backend == "nft")
    assert not alone or watched.told() or len(marks) == 1


def disturb(watched: Watched, monkeypatch: pytest.MonkeyPatch, *, before: str = "", after: str = "") -> None:
    """From now on others run these commands right before the binary that writes, or right after it."""
    restore = binary(Backend(watched.backend), watched.family, Role.RESTORE)
    script = watched.directory / "restore"
    script.write_text(f'#!/bin/sh\nset -e\n{before}\n{restore} "$@"\n{after}\n')
    script.chmod(0o755)
    monkeypatch.setattr("kvctl.netfilter.kernel.binary", lambda *_: str(script))


def rule_command(watched: Watched, arguments: str) -> str:
    return f"{binary(Backend(watched.backend), watched.family, Role.RULE)} -w 10 {arguments}"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_write_is_not_alone_if_somebody_writes_at_the_same_time(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, change: str, when: str
) -> None:
    with watched.changes.own_writes():
        look(watched)
        disturb(watched, monkeypatch, **{when: rule_command(watched, change)})
        assert not watched.write(ALONE).alone


@pytest.mark.parametrize(
    "edit", ["-R KVCTL-SVC-A 2 -j RETURN", "-D KVCTL-SVC-A 1", "-F KVCTL-SVC-A", "-I KVCTL-SVC-A -j ACCEPT"]
)
def test_a_write_is_not_alone_if_what_it_wrote_is_changed_at_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    with watched.changes.own_writes():
        look(watched)
        disturb(watched, monkeypatch, after=rule_command(watched, f"-t nat {edit}"))
        assert not watched.write(ALONE).alone


@pytest.mark.parametrize("looks_alike", [True, False])
def test_an_older_table_that_is_put_back_is_noticed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, *, looks_alike: bool
) -> None:
    """As a program does that reads a table, edits it and writes all of it, here within a write of ours."""
    if looks_alike:  # the rule that was wrong has the comment of the one that is right
        watched.restore(ALONE.replace("-p tcp ", "-p udp "))
    restore = binary(Backend(watched.backend), watched.family, Role.RESTORE)
    saved = watched.directory / "older"
    saved.write_text(watched.namespace.run([restore.replace("restore", "save"), "-t", "nat"]).stdout)
    with watched.changes.own_writes():
        look(watched)
        disturb(watched, monkeypatch, after=f"{restore} -w 10 {saved}")
        assert not watched.write(ALONE).alone


def test_a_change_right_after_a_write_that_was_alone_is_told(watched: Watched) -> None:
    marks = _marks_of(watched)
    with watched.changes.own_writes():
        look(watched)
        assert watched.write(ALONE).alone
        watched.iptables("-t nat -D KVCTL-SVC-A 1")
    assert watched.told() or len(marks) == 1


@pytest.mark.parametrize("backend", ["legacy"])
def test_a_change_during_a_look_is_told_and_the_next_write_is_not_alone(watched: Watched) -> None:
    with watched.changes.own_writes():
        with watched.namespace.entered():
            finish = Kernel(Backend.LEGACY).start_reading(watched.family)
            watched.iptables("-t nat -A KVCTL-EGRESS -j RETURN")
            finish()
        assert not watched.write(ALONE).alone
    with watched.changes.own_writes(), watched.namespace.entered():
        finish = Kernel(Backend.LEGACY).start_reading(watched.family)
        watched.iptables("-t nat -A KVCTL-EGRESS -j RETURN")
        finish()
    assert watched.told()


@pytest.mark.parametrize("backend", ["legacy"])
def test_what_was_looked_at_is_not_told(watched: Watched) -> None:
    watched.iptables("-t nat -A KVCTL-EGRESS -j RETURN")
    with watched.changes.own_writes():
        look(watched)
    assert not watched.told()


def test_a_write_to_the_other_back_end_is_none_of_this_ones(watched: Watched) -> None:
    marks = _marks_of(watched)
    other = Watched(watched.namespace, str(Backend(watched.backend).other), watched.family, watched.changes)
    with watched.changes.own_writes():
        watched.iptables("-t nat -F KVCTL-SVC-A")
        other.write(OURS)
    assert watched.told() or len(marks) == 1


def test_a_block_that_fails_ends_as_any_other(watched: Watched) -> None:
    marks = _marks_of(watched)
    with suppress(ZeroDivisionError), watched.changes.own_writes():
        watched.iptables("-t nat -F KVCTL-SVC-A")
        raise ZeroDivisionError
    assert watched.told() or len(marks) == 1
    watched.iptables("-t nat -F POSTROUTING")
    assert watched.told()


def _marks_of(watched: Watched) -> Marks:
    marks = watched.changes._notify
    assert isinstance(marks, Marks)
    return marks


@pytest.fixture
def nft(namespace: Namespace) -> Iterator[Watched]:
    """The nft back end without a rule."""
    with namespace.entered():
        changes = RuleChanges(Backend.NFT, Marks())
    yield Watched(namespace, "nft", Family.IPV4, changes)
    changes.stop()


BASE = "add chain ip rival out {{ type nat hook postrouting priority {} ; }}"


@pytest.mark.parametrize("family", ["ip", "ip6", "inet"])
def test_a_base_chain_on_postrouting_is_told_when_it_comes_changes_or_goes(nft: Watched, family: str) -> None:
    nft.run("nft", f"add table {family} rival")
    assert nft.told()
    base = f"add chain {family} rival out {{ type nat hook postrouting priority 90 ; }}"
    nft.run("nft", base)
    assert nft.told()
    nft.run("nft", base)
    nft.run("nft", f"add table {family} rival")
    assert not nft.told(), "it was there already"
    nft.run("nft", f"delete chain {family} rival out")
    assert nft.told()
    nft.run("nft", base)
    assert nft.told()
    nft.run("nft", f"delete table {family} rival")
    assert nft.told()


@pytest.mark.parametrize(
    "command",
    [
        "add chain ip rival own",
        "add chain ip rival first {{ type nat hook prerouting priority -90 ; }}",
        "add rule ip rival kept counter",
        "add set ip rival names {{ type ipv4_addr ; }}",
        "add element ip rival addresses {{ 10.0.0.1 }}",
        "delete chain ip rival empty",
        "add chain bridge far out {{ type filter hook postrouting priority 0 ; }}",
        "flush chain ip rival kept",
    ],
)
def test_what_goes_on_in_other_programs_tables_is_passed_over(nft: Watched, command: str) -> None:
    for line in (
        "add table ip rival",
        "add table bridge far",
        "add chain ip rival kept",
        "add chain ip rival empty",
        "add rule ip rival kept counter",
        "add set ip rival addresses { type ipv4_addr ; }",
    ):
        nft.run("nft", line)
    nft.told()
    nft.run("nft", command.format())
    assert not nft.told()


def test_a_rivals_base_chain_that_comes_during_own_writes_is_told(nft: Watched) -> None:
    with nft.changes.own_writes():
        nft.run("nft", "add table ip rival; " + BASE.format(90))
        nft.write(OURS)
        assert nft.told()


@pytest.mark.parametrize("backend", ["nft"])
def test_a_flushed_ruleset_is_told(watched: Watched) -> None:
    watched.run("nft", "flush ruleset")
    assert watched.told()
    assert not watched.told()


def test_generations_are_counted_round_and_round() -> None:
    later = watching_module._is_later
    assert later(5, None)
    assert later(5, 4)
    assert not later(5, 5)
    assert not later(4, 5)
    assert later(1, 0xFFFFFFFF)
    assert not later(0xFFFFFFFF, 1)


def test_watching_legacy_creates_no_table(namespace: Namespace) -> None:
    with namespace.entered():
        tables = LegacyTables()
        assert [tables.read(family) for family in Family] == [{}, {}]
        for path in ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"):
            if os.path.exists(path):
                with open(path, encoding="ascii") as names:
                    assert names.read() == ""
    tables.close()


def test_what_legacy_compares_are_the_rules_that_iptables_prints(
    namespace: Namespace, family: Family
) -> None:
    changes = RuleChanges(Backend.LEGACY, Marks())
    changes.stop()
    watched = Watched(namespace, "legacy", family, changes)
    watched.restore(OURS)
    with namespace.entered():
        tables = LegacyTables()
        found = tables.read(family)
    tables.close()
    assert {key: len(rules) for key, rules in found.items()} == {
        ("nat", "POSTROUTING"): 3,
        ("nat", "KVCTL-EGRESS"): 2,
        ("nat", "KVCTL-SVC-A"): 1,
        ("mangle", "PREROUTING"): 1,
        ("mangle", "POSTROUTING"): 2,
        ("mangle", "KVCTL-DROP"): 0,
    }
    ours, theirs, policy = found["nat", "POSTROUTING"]
    assert ours.endswith(b"\0KVCTL-EGRESS")
    assert theirs.endswith(b"\0KUBE-POSTROUTING")
    assert policy.endswith(b"\0-2"), "ACCEPT"
    assert [comment_of(rule) for rule in (ours, theirs, policy)] == ["kvctl:x", None, None]


def test_a_legacy_table_that_cannot_be_read_counts_as_changed(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with namespace.entered():
        changes = RuleChanges(Backend.LEGACY, Marks())
    watched = Watched(namespace, "legacy", Family.IPV4, changes)
    assert not watched.told()

    def refuse(self: LegacyTables, family: Family) -> None:
        raise NetfilterUnavailableError("no")

    with monkeypatch.context() as patched:
        patched.setattr(LegacyTables, "read", refuse)
        assert watched.told()
        with changes.own_writes():
            watched.restore(OURS)
    assert watched.told()
    assert not watched.told()
    changes.stop()


def test_a_legacy_table_in_constant_change_is_given_up(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = RuleChanges(Backend.LEGACY, Marks())
    changes.stop()
    Watched(namespace, "legacy", Family.IPV4, changes).restore(OURS)
    with namespace.entered():
        tables = LegacyTables()
        real = LegacyTables._getsockopt

        def changing(self: LegacyTables, family: Family, option: int, data: bytearray) -> None:
            if option == 65:
                raise BlockingIOError(11, "changed")
            real(self, family, option, data)

        monkeypatch.setattr(LegacyTables, "_getsockopt", changing)
        with pytest.raises(NetfilterUnavailableError, match="keeps changing"):
            tables.read(Family.IPV4)
    tables.close()


def test_the_threads_end_at_once_and_leave_nothing(namespace: Namespace, backend: str) -> None:
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = state()
    with namespace.entered():
        changes = RuleChanges(Backend(backend), Marks())
        changes.start()
    begun = time.monotonic()
    changes.stop()
    assert time.monotonic() - begun < 1
    with namespace.entered():
        RuleChanges(Backend(backend), Marks()).stop()
    assert state() == before
