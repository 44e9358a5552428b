"""`kvctl complete`: values for a shell that completes a line: quick, and silent where they cannot be had.

The scripts in completions/ know commands, options and choices by themselves, and ask here for what is on this node or
in the cluster alone. Whatever goes wrong, the status is 0 and standard error stays empty: somebody is typing. And it is
no click command: to load click takes longer than to look at the kernel.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from kvctl.model.objects import Objects
    from kvctl.policy.decode import Installed

_SECONDS = 0.9
"""So long it may take, from here on: whoever types gets what has been found by then."""
_MOST = 500
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,511}")
"""What no shell takes for anything but a word. Others are not offered: quotes differ from shell to shell."""


class Line(NamedTuple):
    """The options of a half-typed line that say where values are, and its words that are none."""

    words: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    namespace: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    asks_cluster: bool = False


class _TooLate(BaseException):
    """No library that is under way may take it for an error of its own."""


def complete(arguments: Sequence[str]) -> None:
    """Print values of the first argument, a kind, one a line, for the words of a line up to the one that is completed.

    The words are behind a `--`.
    """
    gc.disable()  # it ends before there is garbage worth looking for
    found: dict[str, None] = {}
    with _in_silence(), suppress(_TooLate, Exception, KeyboardInterrupt), _deadline(_SECONDS):
        kind, _, *words = arguments
        for value in _SOURCES[kind](read_line(words)):
            if _SAFE.fullmatch(value):
                found[value] = None
    with suppress(OSError), open(1, "w", encoding="ascii", closefd=False) as out:
        out.writelines(f"{value}\n" for value in sorted(found))


def read_line(words: Sequence[str]) -> Line:
    """What is known of a half-typed line; what cannot be understood is passed over."""
    rest, line = list(words), Line()
    while rest:
        word = rest.pop(0)
        flag, _, value = word.partition("=")
        field = _FIELDS.get(flag)
        if word == "--cluster":
            line = line._replace(asks_cluster=True)
        elif field is None:
            line = line if word.startswith("-") else line._replace(words=(*line.words, word))
        elif value or rest:
            value = os.path.expanduser(value or rest.pop(0))
            told: dict[str, Any] = {field: (*line.files, value) if field == "files" else value}
            line = line._replace(**told)
    return line


_FIELDS: Mapping[str, str] = {
    "-f": "files",
    "--filename": "files",
    "-n": "namespace",
    "--namespace": "namespace",
    "--kubeconfig": "kubeconfig",
    "--context": "context",
}


def _services(line: Line) -> Iterator[str]:
    for namespace, name in _refs(line):
        if line.namespace is None:
            yield f"{namespace}/{name}"
        elif line.namespace == namespace:
            yield name


def _namespaces(line: Line) -> Iterator[str]:
    return (namespace for namespace, _ in _refs(line))


def _refs(line: Line) -> Iterator[tuple[str, str]]:
    """Of Services: those that the command can have to do with, namespace and name."""
    command = line.words[2:3]
    if command in (("flush",), ("verify",)) or (command == ("show",) and not _names_source(line)):
        yield from _refs_in_kernel()
    elif line.files:
        yield from (service.ref for service in _read(line).services)
    elif _is_configured(line):
        yield from _get(line, "services")
    else:
        yield from _refs_in_kernel()


def _nodes(line: Line) -> Iterator[str]:
    if line.files:
        objects = _read(line)
        yield from (node.name for node in objects.nodes)
        yield from (pod.node for pod in objects.pods if pod.node is not None)
    elif _is_configured(line):
        yield from (name for _, name in _get(line, "nodes"))


def _contexts(line: Line) -> Iterator[str]:
    from kvctl.cluster.kubeconfig import context_names, find_source

    source = find_source(kubeconfig=line.kubeconfig, context=None)
    yield from context_names(source) if source is not None else ()


def _addresses(line: Line) -> Iterator[str]:
    """Of pods that have rules here, or are in the files."""
    if line.files:
        yield from (str(address) for pod in _read(line).pods for address in pod.addresses)
        return
    for installed in _look():
        yield from (str(entry.address) for entry in (*installed.entries, *installed.drops.entries))


def _pods(line: Line) -> Iterator[str]:
    if line.files:
        found: Iterator[tuple[str, str]] = ((pod.namespace, pod.name) for pod in _read(line).pods)
    else:
        found = _get(line, "pods") if _is_configured(line) else _pods_in_kernel()
    yield from (f"{namespace}/{name}" for namespace, name in found)


_SOURCES: Mapping[str, Callable[[Line], Iterator[str]]] = {
    "services": _services,
    "namespaces": _namespaces,
    "nodes": _nodes,
    "contexts": _contexts,
    "addresses": _addresses,
    "pods": _pods,
}


def _refs_in_kernel() -> Iterator[tuple[str, str]]:
    return (ref for installed in _look() for ref in installed.refs)


def _pods_in_kernel() -> Iterator[tuple[str, str]]:
    """Those that rules name in full; they are in the namespaces of their Services."""
    from kvctl.model.policy import EgressPod

    for installed in _look():
        for entry in (*installed.entries, *installed.drops.entries):
            name = EgressPod.labelled(entry.address, label=entry.label).name
            if name is not None:
                yield entry.rank.ref.namespace, name


def _look() -> Iterator[Installed]:
    """What of kvctl's is in the kernel, by back end and family.

    Not by `reconcile.look`: whatever compares would have to be loaded for it.
    """
    from kvctl.netfilter.kernel import Kernel, start_reading_everything

    read = start_reading_everything()
    from kvctl.netfilter.savetext import has_own
    from kvctl.policy.compile import HOOKS
    from kvctl.policy.decode import decode

    for (backend, family), saved in read().tables.items():
        if has_own(saved) or saved.incompatible:
            yield decode(Kernel(backend).snapshot(family, saved, hooks=HOOKS))


def _read(line: Line) -> Objects:
    from kvctl.cluster.manifests import read_manifests

    # Standard input is the terminal that somebody types at.
    files = [name for name in line.files if name != "-"]
    with open(os.devnull, "rb") as nothing:
        return read_manifests(files, stdin=nothing)


def _names_source(line: Line) -> bool:
    return bool(line.files or line.asks_cluster or line.kubeconfig or line.context)


def _is_configured(line: Line) -> bool:
    from kvctl.cluster.kubeconfig import is_configured

    return is_configured(kubeconfig=line.kubeconfig, context=line.context)


def _get(line: Line, plural: str) -> Iterator[tuple[str, str]]:
    """Namespace (empty where there is none) and name of the first objects that the cluster has."""
    from kvctl.cluster.connection import open_connection

    connection = open_connection(kubeconfig=line.kubeconfig, context=line.context)
    answer = connection.get(f"/api/v1/{plural}?limit={_MOST}", timeout=_SECONDS, overall=_SECONDS)
    for item in answer["items"]:
        yield item["metadata"].get("namespace", ""), item["metadata"]["name"]


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Ends what it encloses after so long, wherever it waits."""
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_late(number: int, frame: object) -> NoReturn:
    raise _TooLate


@contextmanager
def _in_silence() -> Iterator[None]:
    """Nothing that anybody says gets to the terminal, a credential plugin's complaint for one."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
