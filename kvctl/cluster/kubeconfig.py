"""Which cluster is configured, and in which namespace its user works; without the client library.

A kubeconfig holds tokens: no text of it but names of contexts, clusters and users gets into a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvctl.cluster.yaml_values import yaml_values
from kvctl.errors import ClusterError, InputError
from kvctl.model.text import quote

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
HOME_KUBECONFIG = "~/.kube/config"

_LARGEST = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from: these kubeconfig files, or (no file) the account of this pod."""

    files: tuple[str, ...]
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """The context that counts; its name and namespace as somebody wrote them."""

    name: str
    namespace: str | None


def find_source(
    *, kubeconfig: str | None, context: str | None, environ: Mapping[str, str] | None = None
) -> Source | None:
    """The source of the configuration, or None if there is none.

    In order: the kubeconfig named, KUBECONFIG, the account of this pod (it has no contexts, so not when
    one is named), `~/.kube/config`. What is named counts as configured, also if it is missing.
    """
    env = os.environ if environ is None else environ
    if kubeconfig:
        return Source((kubeconfig,), context)
    if files := tuple(filter(None, env.get("KUBECONFIG", "").split(os.pathsep))):
        return Source(files, context)
    if context is None and env.get("KUBERNETES_SERVICE_HOST") and os.path.isfile(f"{ACCOUNT}/token"):
        return Source(())
    home = os.path.expanduser(HOME_KUBECONFIG)
    if context is not None or os.path.isfile(home):
        return Source((home,), context)
    return None


def is_configured(*, kubeconfig: str | None, context: str | None) -> bool:
    """Whether flags, environment or files name a cluster; it need not be reachable."""
    return find_source(kubeconfig=kubeconfig, context=context) is not None


def default_namespace(*, kubeconfig: str | None, context: str | None) -> str | None:
    """The namespace of the current (or given) context, or of this pod's account; None if nothing names one.

    The text is as somebody wrote it. Raises ClusterError for a kubeconfig that cannot be read or lacks
    the context.
    """
    source = find_source(kubeconfig=kubeconfig, context=context)
    if source is None:
        return None
    if source.files:
        return chosen_context(source).namespace
    try:
        with open(f"{ACCOUNT}/namespace", encoding="utf-8") as file:
            return file.read(1024).strip() or None
    except (OSError, ValueError):
        # Some mount the account's token alone; the namespace is a convenience.
        return None


def chosen_context(source: Source) -> Context:
    """The context of `source` that counts: the one named, else the first current-context of its files.

    Raises ClusterError if it, its cluster (with a server) or its user is not there.
    """
    files = list(_files(source.files))
    if not files:
        shown = ", ".join(quote(path) for path in source.files)
        raise ClusterError(
            f"cannot read the kubeconfig: there is no file {shown}",
            hint="check --kubeconfig and KUBECONFIG",
        )
    name = source.context or next(
        (c for f in files if isinstance(c := f.get("current-context"), str) and c), None
    )
    if name is None:
        raise ClusterError("the kubeconfig has no current context", hint="name one with --context")
    context = _entry(files, "contexts", "context", name)
    cluster = _entry(files, "clusters", "cluster", _text(context, "cluster") or "")
    if _text(cluster, "server") is None:
        raise ClusterError(f"the cluster of context {quote(name)} has no server", hint="mend the kubeconfig")
    if (user := _text(context, "user")) is not None:
        _entry(files, "users", "user", user)
    return Context(name=name, namespace=_text(context, "namespace"))


def context_names(source: Source) -> list[str]:
    """The contexts of the files that `source` names, as somebody wrote them. Raises ClusterError."""
    lists = (content.get("contexts") for content in _files(source.files))
    entries = [entry for listed in lists if isinstance(listed, list) for entry in listed]
    return [
        name for entry in entries if isinstance(entry, dict) and isinstance(name := entry.get("name"), str)
    ]


def _files(paths: Sequence[str]) -> Iterator[Mapping[object, object]]:
    """The contents of the files that exist, as kubectl passes over those in KUBECONFIG that do not."""
    for path in paths:
        where = f"kubeconfig {quote(path)}"
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                text = file.read(_LARGEST)
            content = next(yaml_values(text, name=where), None)
        except FileNotFoundError:
            continue
        except InputError as error:
            raise ClusterError(error.message, hint="mend the file") from error
        except (OSError, ValueError) as error:
            why = (
                os.strerror(error.errno)
                if isinstance(error, OSError) and error.errno
                else "it is no UTF-8 text"
            )
            raise ClusterError(
                f"cannot read {where}: {why}", hint="check --kubeconfig and KUBECONFIG"
            ) from error
        if not isinstance(content, dict):
            raise ClusterError(f"{where} holds no configuration", hint="check --kubeconfig and KUBECONFIG")
        yield content


def _entry(
    files: Sequence[Mapping[object, object]], plural: str, kind: str, name: str
) -> Mapping[object, object]:
    for content in files:
        listed = content.get(plural)
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind), dict):
                found: dict[object, object] = entry[kind]
                return found
    raise ClusterError(
        f"the kubeconfig has no {kind} {quote(name)}",
        hint="see kubectl config get-contexts; name another with --context, or mend the kubeconfig",
    )


def _text(mapping: Mapping[object, object], key: str) -> str | None:
    value = mapping.get(key)
    return value if isinstance(value, str) and value else None
