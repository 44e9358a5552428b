"""Whether the kernel has the matches and targets of kvctl's rules: tried, in a network namespace of its own.

What is loaded says little: it may be built in, and what is not loaded yet is loaded by the first rule.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from kvctl import proc
from kvctl.doctor.binaries import in_use
from kvctl.doctor.finding import Finding, Level, fine, unknown
from kvctl.doctor.scene import Scene
from kvctl.errors import KvctlError
from kvctl.model.net import Family, parse_address, parse_network
from kvctl.model.rules import DROP, RETURN, Heartbeat, Mark, Rule, Table, Target, Verb
from kvctl.model.text import one_line
from kvctl.netfilter.binaries import Backend, Role, binary
from kvctl.netfilter.compat import Kind, has_extension
from kvctl.netfilter.kernel import LOCK_SECONDS
from kvctl.netfilter.syntax import render
from kvctl.netns import in_thread

CHECK = "kernel"
_CLONE_NEWNET = 0x40000000
_SECONDS = 30.0
_CHAIN = "KVCTL-TRY"
_COMMENT = "kvctl:try"
_MARK = Mark(value=4, mask=0x3C)
# RFC 5737, RFC 3849: for documentation.
_ADDRESSES = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}

T = TypeVar("T")


class Feature(NamedTuple):
    """What a rule of ours takes of the kernel, and what does not work without it."""

    name: str
    table: Table
    rule: Rule
    without: str
    extensions: tuple[tuple[str, Kind], ...]
    """As the kernel names them."""
    level: Level = Level.FAILURE


def features(family: Family) -> list[Feature]:
    """Each match and target that kvctl writes, in a rule of its own."""
    address = parse_address(_ADDRESSES[family])
    network = parse_network(f"{address}/{family.bits}")

    def rule(target: Target = RETURN, **matches: object) -> Rule:
        return Rule(comment=_COMMENT, target=target, **matches)  # type: ignore[arg-type]

    nothing, marks = "no Service can be rewritten", "traffic cannot be led out by another interface"
    beat = Heartbeat(name="kvctl-try", seconds=10, family=family)
    ports = "Services with several ports cannot be rewritten"
    warn, nat, mangle = Level.WARNING, Table.NAT, Table.MANGLE
    match, target = Kind.MATCH, Kind.TARGET
    dropped = "kvctl.io/without-vip: drop does not work"
    fenced = "with serviceElection only addresses are fenced"
    snat = rule(Target(verb=Verb.SNAT, address=address))
    aimed = rule(original_destination=network)
    several = rule(protocol="tcp", ports=((80, 80), (443, 443)))
    udp, sctp = (rule(protocol=name, ports=((53, 53),)) for name in ("udp", "sctp"))
    drop, fence = rule(DROP, asked_only=True), rule(DROP, heartbeat=beat)
    mark = rule(Target(verb=Verb.MARK, mark=_MARK), marked=_MARK.mask)
    save = rule(Target(verb=Verb.SAVE_MARK, mark=_MARK))
    of_nat = (("comment", match), ("SNAT", target))
    return [
        Feature("the nat table, comments and SNAT", nat, snat, nothing, of_nat),
        Feature("conntrack", nat, aimed, nothing, (("conntrack", match),)),
        Feature("multiport", nat, several, ports, (("multiport", match),)),
        Feature("udp ports", nat, udp, "UDP ports cannot be told apart", (("udp", match),)),
        Feature("sctp ports", nat, sctp, "SCTP ports cannot be told apart", (("sctp", match),), warn),
        Feature("the mangle table", mangle, drop, dropped, (("conntrack", match),), warn),
        Feature("mark and MARK", mangle, mark, marks, (("mark", match), ("MARK", target)), warn),
        Feature("CONNMARK", mangle, save, marks, (("CONNMARK", target),), warn),
        Feature("recent", mangle, fence, fenced, (("recent", match),), warn),
    ]


def check(scene: Scene) -> Iterator[Finding]:
    """Try them in the back end that is in use."""
    backend = in_use(scene)
    if backend is None or scene.look is None or not scene.privileges.may_administer:
        return
    may_try = scene.privileges.may_make_namespaces
    if not may_try and backend is Backend.LEGACY:
        text = "whether the kernel has what kvctl's rules need was not tried: that takes CAP_SYS_ADMIN"
        yield unknown(CHECK, text, mend="sudo kvctl doctor, outside of the container")
        return
    for family in scene.look.sites:
        yield from _tried(backend, family) if may_try else _asked(family)


def _tried(backend: Backend, family: Family) -> Iterator[Finding]:
    path = binary(backend, family, Role.RESTORE)
    wanted = features(family)
    missing = in_own_namespace(lambda: _missing(path, wanted))
    return _judge(family, wanted, missing, how=f"tried by {path} in a network namespace of its own")


def _asked(family: Family) -> Iterator[Finding]:
    """Without the right to make a network namespace: nf_tables says what it has, which is nearly as good."""
    wanted = features(family)
    missing = []
    for feature in wanted:
        lacks = [name for name, kind in feature.extensions if not has_extension(name, kind, family)]
        if lacks:
            missing.append((feature, f"no {', '.join(lacks)}"))
    return _judge(family, wanted, missing, how="asked of nf_tables, for lack of CAP_SYS_ADMIN to try it")


def _judge(
    family: Family, wanted: Sequence[Feature], missing: Sequence[tuple[Feature, str]], *, how: str
) -> Iterator[Finding]:
    if not missing:
        names = ", ".join(each.name for each in wanted)
        text = f"{family}: the kernel has all that kvctl's rules need"
        yield fine(CHECK, text, evidence=f"{names}: {how}")
    for feature, said in missing:
        level = feature.level if family is Family.IPV4 else Level.WARNING
        text = f"{family}: the kernel or iptables lacks {feature.name}: {feature.without}"
        evidence = f"{how}: {one_line(said, longest=300)}"
        yield Finding(CHECK, level, text, evidence, "install the kernel's extra modules, or another kernel")


def _missing(path: str, wanted: Sequence[Feature]) -> list[tuple[Feature, str]]:
    """Those that a restore refuses, each with what it says."""
    if _try(path, wanted) is None:
        return []
    answers = [(feature, _try(path, [feature])) for feature in wanted]
    return [(feature, stderr) for feature, stderr in answers if stderr is not None]


def _try(path: str, wanted: Sequence[Feature]) -> str | None:
    """What a restore of rules with these says; None: it goes through."""
    lines = []
    for table in Table:
        rules = [f"-A {_CHAIN} {render(each.rule)}" for each in wanted if each.table is table]
        if rules:
            lines += [f"*{table}", f":{_CHAIN} - [0:0]", *rules, "COMMIT"]
    argv = (path, "--noflush", "-w", str(LOCK_SECONDS))
    with tempfile.TemporaryDirectory(prefix="kvctl-doctor-") as directory:
        # Nobody else changes this namespace: the host's lock is left to the host.
        env = {"XTABLES_LOCKFILE": str(Path(directory, "lock"))}
        done = proc.run(argv, stdin="\n".join(lines) + "\n", deadline=_SECONDS, env=env)
    return None if done.status == 0 else done.stderr.strip() or f"status {done.status}"


def in_own_namespace(function: Callable[[], T]) -> T:
    """What `function` returns in a network namespace that is made for it and goes with it. Raises KvctlError."""

    def run() -> T:
        # unshare(2) is about the calling thread alone, whose children begin where it is.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise KvctlError(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
        return function()

    return in_thread(run)
