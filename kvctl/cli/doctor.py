"""`kvctl doctor`: can egress work on this host, and if not, what mends it?"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence

import click

from kvctl.agent.sign import find_agent
from kvctl.cli import options
from kvctl.cli.again import mend_by
from kvctl.cli.help import Command
from kvctl.cli.inputs import Inputs, takes_inputs
from kvctl.cli.node import read_wanted
from kvctl.cli.output import Json, print_json, print_yaml, printable, wrapped
from kvctl.cli.settings import told_backend
from kvctl.doctor.examine import Examination, examine
from kvctl.doctor.finding import Finding, Level, verdict
from kvctl.doctor.scene import read_scene
from kvctl.errors import ClusterError
from kvctl.model.objects import Objects
from kvctl.reconcile.target import Scope

_COLOURS = {Level.FAILURE: "red", Level.WARNING: "yellow", Level.UNKNOWN: "yellow", Level.FINE: "green"}
_SCHEMA_VERSION = 1


@click.command(cls=Command)
@takes_inputs(by_choice=True)
@options.backend
@options.output()
def command(*, inputs: Inputs, nftables: bool | None, output: str) -> int:
    """Check whether egress can work on this host; say what keeps it from working, and what mends it.

    Looks only, and changes nothing. The first line is the worst cause. With -f, --cluster, --kubeconfig or --context
    the rules are compared with what these ask for, and the ranges with what Nodes, pods and Services have. Without root
    it checks what it can.

    Exit status: 0 fine, or warnings only; 1 a failure; 4 where the rules could not be read at all.
    """
    told, settings = told_backend(nftables), inputs.settings()
    objects, silence = _source(inputs)
    agent = find_agent()
    wanted = read_wanted(objects, settings=settings, scope=Scope()) if objects is not None else None
    scene = read_scene(
        settings=settings,
        told=told,
        objects=objects,
        silence=silence,
        agent=str(agent) if agent is not None else None,
        wish=wanted.wish if wanted is not None else None,
        again=_again(inputs, nftables=nftables),
    )
    found = examine(scene)
    if output in ("json", "yaml"):
        document = _document(found, node=settings.this_node)
        print_json(document) if output == "json" else print_yaml(document)
    else:
        click.echo("\n".join(wrapped(printable(verdict(found.findings)))))
        click.echo("\n".join(_lines(found.findings, is_wide=output == "wide")))
    return found.exit_status


def _source(inputs: Inputs) -> tuple[Objects | None, ClusterError | None]:
    """What the source holds, or why a cluster did not answer: that keeps nobody from looking at the host."""
    if not inputs.name_a_source:
        return None, None
    try:
        return inputs.objects(), None
    except ClusterError as error:
        return None, error


def _again(inputs: Inputs, *, nftables: bool | None) -> str:
    """The options by which `apply` reads the same source in the same way, as far as they were given."""
    several = (
        ("--pod-cidr", inputs.pod_cidrs),
        ("--service-cidr", inputs.service_cidrs),
        ("--exclude-cidr", inputs.exclude_cidrs),
        ("--vip-range", inputs.vip_ranges),
        ("--node", [inputs.node]),
        ("--interface", [inputs.interface]),
        ("--without-vip", [inputs.without_vip]),
    )
    words = [word for flag, values in several for value in values if value for word in (flag, value)]
    for flag, value in (("assume-vip", inputs.assume_vip), ("nftables", nftables)):
        if value is not None:
            words.append(f"--{flag}" if value else f"--no-{flag}")
    return " ".join(filter(None, (mend_by(inputs).source, shlex.join(words))))


def _document(found: Examination, *, node: str | None) -> Json:
    return {
        "schemaVersion": _SCHEMA_VERSION,
        "backend": str(found.backend) if found.backend is not None else None,
        "node": node,
        "verdict": verdict(found.findings),
        "checks": [
            {
                "check": each.check,
                "level": str(each.level),
                "message": each.message,
                "evidence": each.evidence or None,
                "mend": each.mend,
            }
            for each in found.findings
        ],
    }


def _lines(findings: Sequence[Finding], *, is_wide: bool) -> list[str]:
    """A line a finding; of problems, and in the wide form of all, what was seen and what mends it below."""
    title = max((len(each.check) for each in findings), default=0)
    indent = " " * (len("failure") + title + 4)
    width = _width()
    lines = []
    for each in findings:
        texts = [each.message]
        if each.evidence and (is_wide or each.level is not Level.FINE):
            texts.append(f"seen: {each.evidence}")
        if each.mend is not None:
            texts.append(f"mend: {each.mend}")
        head = f"{each.level:<7}  {each.check:<{title}}  "
        body = [part for text in texts for part in _wrapped(printable(text), width - len(indent))]
        lines += [_coloured(head, each.level) + body[0], *(indent + part for part in body[1:])]
    return lines


def _width() -> int:
    """Columns of the terminal; where there is none nothing is broken, so that a line can be searched for."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(
        text, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _coloured(head: str, level: Level) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return head
    return click.style(head[: len(level)], fg=_COLOURS[level]) + head[len(level) :]
