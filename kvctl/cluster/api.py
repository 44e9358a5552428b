"""The API of a cluster -> objects, read once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from kvctl.cluster.connection import Connection, open_connection
from kvctl.cluster.kubeconfig import default_namespace, is_configured
from kvctl.cluster.listing import read_objects
from kvctl.errors import ClusterError
from kvctl.model.objects import Objects

__all__ = ["default_namespace", "is_configured", "read_cluster"]


def read_cluster(
    *, kubeconfig: str | None, context: str | None, timeout: float = 10.0, overall: float = 120.0
) -> Objects:
    """Everything kvctl wants to know of the cluster that is configured.

    `timeout`: how many seconds the server may be silent; `overall`: how many it all may take.
    Raises ClusterError if none is configured, or Services or Pods cannot be listed. Forbidden reads of
    what is not indispensable become warnings that say what follows.
    """
    deadline = time.monotonic() + overall

    def work() -> Objects:
        connection = open_connection(kubeconfig=kubeconfig, context=context)
        try:
            return read_objects(_Server(connection, timeout=timeout, deadline=deadline))
        finally:
            connection.close()

    return _bounded(work, seconds=overall)


def _bounded(work: Callable[[], Objects], *, seconds: float) -> Objects:
    """What `work` returns or raises, within `seconds`.

    In a thread, because name resolution and credential plugins know no deadline. One that hangs dies
    with the process.
    """
    outcome: list[Objects | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="read-cluster", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise ClusterError(f"the cluster was not read within {seconds:g} s", hint="try again")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Server:
    """The API server with one deadline for all requests."""

    def __init__(self, connection: Connection, *, timeout: float, deadline: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._deadline = deadline
        self.name = connection.name

    def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`. Raises RefusedError for a status but 200, else ClusterError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ClusterError(f"{self.name} did not answer in the time allowed", hint="try again")
        return self._connection.get(path, timeout=self._timeout, overall=left)

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError: the answer to `path` is none of the API's."""
        self._connection.no_sense(path)
