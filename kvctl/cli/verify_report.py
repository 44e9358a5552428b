"""What `verify` prints at its end: the answer in a sentence, then the counts, then why and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvctl.agent.sign import find_agent
from kvctl.cli.output import Column, Json, coloured, print_json, print_table, print_yaml, printable, wrapped
from kvctl.model.net import Address
from kvctl.model.text import one_line
from kvctl.node.host import read_host
from kvctl.policy.holder import not_here
from kvctl.verify.by_rules import by_rules
from kvctl.verify.expected import Kind, Rules
from kvctl.verify.tally import Tally, Verdict, next_steps, sentence, verdict_of

_MOST_TRACED = 3
_COLOURS = {"right": "green", "wrong": "red", "lost": "yellow", "not rewritten": "yellow"}


class Report:
    """What is printed at the end."""

    def __init__(self, rules: Rules, *, backend: str, output: str, assume_vip: bool) -> None:
        self.is_document = output in ("json", "yaml")
        self._rules = rules
        self._backend = backend
        self._output = output
        self._assume_vip = assume_vip

    def whose(self, address: Address, pod: Address) -> str:
        """Whose address the other end saw of a pod."""
        return self._rules.whose(address, pod=pod)

    def print(self, tallies: Sequence[Tally]) -> None:
        """The answer first."""
        first, away = sentence(tallies, self.whose), self._away(tallies)
        if away:
            first += f", but no interface of this node has {', '.join(map(str, away))}: this will stop"
        why = [*away.values(), *_faults(tallies), *_traced(tallies)]
        if self.is_document:
            (print_json if self._output == "json" else print_yaml)(self._document(first, why, tallies))
            return
        verdict = str(verdict_of(tallies))
        head, *more = wrapped(one_line(first))
        click.echo("\n".join((coloured(verdict, _COLOURS[verdict]) + head.removeprefix(verdict), *more)))
        columns = (*_COLUMNS, *_WIDE) if self._output == "wide" else _COLUMNS
        print_table(columns, [self._row(each)[: len(columns)] for each in tallies])
        for text in why:
            click.echo("\n".join(wrapped(one_line(text))))
        for text in next_steps(tallies):
            # Not broken: there is a command in it that is copied.
            click.echo(one_line(text))

    def _away(self, tallies: Sequence[Tally]) -> dict[Address, str]:
        """VIPs that are right as yet, while neighbours remember who had them, each with why that will end."""
        if verdict_of(tallies) is not Verdict.RIGHT or self._assume_vip:
            return {}
        expected = {(e.address, e.service) for e in (each.asked.expectation for each in tallies)}
        # Of verify --watch the host that it began on may be long gone.
        host, away = read_host(), {}
        for vip, service in expected:
            if vip is None or service is None or host.having(vip):
                continue
            why = not_here(vip, host=host, assume=False, elected=self._rules.has_fence(service))
            if why is not None:
                away[vip] = why
        # An agent judges by evidence that is not in the kernel, MetalLB's word for one.
        return away if away and find_agent() is None else {}

    def _row(self, tally: Tally) -> list[str]:
        asked, expected = tally.asked, tally.asked.expectation
        seen = ",".join(str(address) for address, _ in tally.seen.most_common()) or "-"
        wanted = str(expected.address) if expected.address is not None else _SHORT[expected.kind]
        counts = map(str, (tally.right, tally.wrong, tally.lost))
        losses = ",".join(f"{loss}: {count}" for loss, count in tally.losses.most_common()) or "-"
        cells = (asked.pod or "-", str(asked.source), asked.protocol, wanted, seen, *counts)
        return [printable(cell) for cell in (*cells, asked.target, losses, str(expected))]

    def _document(self, first: str, why: Sequence[str], tallies: Sequence[Tally]) -> Json:
        return {
            "schemaVersion": 1,
            "backend": self._backend,
            "verdict": str(verdict_of(tallies)),
            "sentence": first,
            "items": [self._json(each) for each in tallies],
            "why": list(why),
            "next": next_steps(tallies),
        }

    def _json(self, tally: Tally) -> Json:
        asked, expected = tally.asked, tally.asked.expectation
        return {
            "pod": asked.pod or None,
            "source": str(asked.source),
            "destination": str(asked.destination),
            "destinationPort": asked.port,
            "protocol": asked.protocol,
            "expected": {
                "kind": str(expected.kind),
                "address": str(expected.address) if expected.address is not None else None,
                "service": str(expected.service) if expected.service is not None else None,
                "sentence": str(expected),
            },
            "asked": tally.total,
            "right": tally.right,
            "wrong": tally.wrong,
            "lost": tally.lost,
            "seen": [
                {
                    "source": str(address),
                    "whose": self.whose(address, asked.source),
                    "right": expected.allows(address),
                    "count": count,
                }
                for address, count in tally.seen.most_common()
            ],
            "losses": {str(loss): count for loss, count in tally.losses.most_common()},
        }


def _bad(text: str) -> str | None:
    return None if text == "0" else "red"


_COLUMNS = (
    Column("POD"),
    Column("FROM"),
    Column("PROTO"),
    Column("EXPECTED"),
    Column("SEEN", breaks=True),
    Column("RIGHT", right=True),
    Column("WRONG", style=_bad, right=True),
    Column("LOST", style=_bad, right=True),
)
_WIDE = (Column("TO"), Column("LOSSES", breaks=True), Column("BECAUSE"))
_SHORT = {
    Kind.NOT_VIP: "not the VIP",
    Kind.SILENCE: "silence",
    Kind.BROKEN: "the VIP",
    Kind.NOTHING: "a VIP",
}


def _faults(tallies: Sequence[Tally]) -> list[str]:
    """What is wrong with rules whose VIP can be told all the same."""
    expected = (each.asked.expectation for each in tallies)
    return list(
        dict.fromkeys(
            f"the rules of {e.service} are not as they were written: {e.fault}"
            for e in expected
            if e.fault and e.kind is Kind.VIP
        )
    )


def _traced(tallies: Sequence[Tally]) -> list[str]:
    """What the rules do with what is not right, or is not rewritten: as `trace` says it now."""
    found: list[str] = []
    for each in tallies:
        expected = each.asked.expectation
        if each.total and (each.wrong or each.lost or expected.kind in (Kind.NOT_VIP, Kind.SILENCE)):
            found.append(f"by the rules now: {by_rules(each.asked)}")
        if len(found) == _MOST_TRACED:
            break
    return found
