"""`kvctl egress echo`: a server outside of the cluster that answers with the source it saw."""

from __future__ import annotations

import sys
from collections import Counter

import click

from kvctl.agent.log_stream import PatientStream
from kvctl.cli.help import Command
from kvctl.echo.server import Limits, Question, Server, listen
from kvctl.echo.wire import DEFAULT_PORT
from kvctl.errors import UsageError
from kvctl.model.net import parse_address
from kvctl.model.text import plural, quote
from kvctl.signals import orderly


@click.command(cls=Command)
@click.option("--listen", "address", metavar="ADDRESS", help="Where to listen. [default: every address]")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    metavar="PORT",
    help="The port, of both protocols: one that the Service rewrites.",
)
@click.option("--tcp/--no-tcp", "tcp", default=True, help="Answer by TCP. [default: yes]")
@click.option("--udp/--no-udp", "udp", default=True, help="Answer by UDP. [default: yes]")
@click.option(
    "--connections",
    type=click.IntRange(1, 10_000),
    default=Limits().connections,
    show_default=True,
    metavar="NUMBER",
    help="So many TCP connections at most: whoever has most of them loses the one that has been idle longest.",
)
@click.option("--log", "logs", is_flag=True, help="Say each question on standard error.")
def command(*, address: str | None, port: int, tcp: bool, udp: bool, connections: int, logs: bool) -> int:
    """Answer whoever asks with the source address that was seen: the other end of kvctl egress verify.

    Runs outside of the cluster, until it is told to end; needs no root. A line by TCP is answered by one line, which
    `echo | nc HOST PORT` shows, too: kvctl-echo/1, what identifies the question, source and port, destination and
    port. By UDP only questions of verify are answered, and never by more than was asked.
    """
    if not (tcp or udp):
        raise UsageError("neither TCP nor UDP is left", hint="leave --no-tcp or --no-udp away")
    where = None
    if address is not None:
        try:
            where = parse_address(address)
        except ValueError:
            raise UsageError(
                f"--listen {quote(address)} is not an IP address", hint="as in 192.0.2.9 or 2001:db8::9"
            ) from None
    protocols = [name for name, wanted in (("tcp", tcp), ("udp", udp)) if wanted]
    sockets = listen(port=port, address=where, protocols=protocols)
    place = "every address" if where is None else str(where)
    # Whoever reads what is logged, or does not, keeps nobody from being answered.
    with PatientStream(sys.stderr.fileno(), lost=_lost) as log:
        callers = _Callers(log if logs else None)
        server = Server(sockets, limits=Limits(connections=connections), heard=callers.hear)
        try:
            with orderly():
                log.write(
                    f"Note: answering on {place}, port {port} ({' and '.join(protocols)}); Ctrl-C ends it\n"
                )
                server.serve()
        except (KeyboardInterrupt, SystemExit):
            pass  # it is how a server ends
        finally:
            server.close()
        log.write(f"Note: {callers}\n")
    return 0


_MOST_SOURCES = 10_000
_MOST_NAMED = 5


class _Callers:
    """Who has asked, and how often; strangers send what they like, so what is kept of them is bounded."""

    def __init__(self, log: PatientStream | None) -> None:
        self._log = log
        self._sources: Counter[str] = Counter()
        self._questions = 0

    def hear(self, question: Question) -> None:
        """Count it, and log it."""
        self._questions += 1
        if question.source in self._sources or len(self._sources) < _MOST_SOURCES:
            self._sources[question.source] += 1
        if self._log is not None:
            self._log.write(f"{_line(question)}\n")

    def __str__(self) -> str:
        named = ", ".join(f"{source} ({count})" for source, count in self._sources.most_common(_MOST_NAMED))
        return f"{plural(self._questions, 'question')} answered" + (f": {named}" if named else "")


def _lost(count: int) -> str:
    return f"Note: {plural(count, 'line')} left out: nobody read them\n"


def _line(question: Question) -> str:
    source = _end(question.source, question.source_port)
    return f"{question.protocol} {source} -> {_end(question.destination, question.destination_port)}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
