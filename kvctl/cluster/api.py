"""The API of a cluster -> objects: the only importer of `kubernetes`.

The client library serves for configuration, authentication and TLS. Lists are raw JSON, read page by
page and cut to what is kept on arrival (its models cost four times the memory and seven times the time).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from kvctl.cluster.kubeconfig import (
    Source,
    chosen_context,
    default_namespace,
    find_source,
    is_configured,
)
from kvctl.cluster.listing import OR_FILE, RefusedError, read_objects
from kvctl.errors import ClusterError, KvctlError
from kvctl.model.objects import Objects
from kvctl.model.text import quote

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["default_namespace", "is_configured", "read_cluster"]

LARGEST_PAGE = 256 * 2**20


def read_cluster(
    *, kubeconfig: str | None, context: str | None, timeout: float = 10.0, overall: float = 120.0
) -> Objects:
    """Everything kvctl wants to know of the cluster that is configured.

    `timeout`: how many seconds the server may be silent; `overall`: how many it all may take.
    Raises ClusterError if none is configured, or Services or Pods cannot be listed. Forbidden reads of
    what is not indispensable become warnings that say what follows.
    """
    source = find_source(kubeconfig=kubeconfig, context=context)
    if source is None:
        raise ClusterError(
            "no cluster configured: no kubeconfig, no KUBECONFIG, no account of a pod",
            hint="use -f FILE, or name a kubeconfig with --kubeconfig",
        )
    deadline = time.monotonic() + overall

    def work() -> Objects:
        client = _client(source)
        try:
            return read_objects(_Server(client, timeout=timeout, deadline=deadline))
        finally:
            client.rest_client.close()

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
        raise ClusterError(f"the cluster was not read within {seconds:g} s", hint=f"try again, {OR_FILE}")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Server:
    """The API server: GET requests with a deadline, all failures as ClusterError."""

    def __init__(self, client: ApiClient, *, timeout: float, deadline: float) -> None:
        self._client = client
        self._timeout = timeout
        self._deadline = deadline
        self.name = _host(client.configuration.host)

    def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`. Raises RefusedError for a status but 200, else ClusterError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ClusterError(
                f"{self.name} did not answer in the time allowed", hint=f"try again, {OR_FILE}"
            )
        content = self._content(path, timeout=min(self._timeout, left))
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            self.no_sense(path)
        if not isinstance(value, dict):
            self.no_sense(path)
        return value

    def _content(self, path: str, *, timeout: float) -> bytes:
        try:
            method, url, headers, *_ = self._client.param_serialize(
                "GET", path, header_params={"Accept": "application/json"}, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(
                method, url, header_params=headers, _request_timeout=(timeout, timeout)
            ).response
            try:
                if answer.status != 200:
                    raise RefusedError(answer.status)
                return self._body(answer, path)
            finally:
                # Unread data would be mistaken for the next answer on this connection.
                answer.close() if answer.status != 200 else answer.release_conn()
        except (KvctlError, RefusedError):
            raise
        except Exception as error:
            why, hint = _why(error, timeout=timeout)
            # Messages of the libraries may hold what was sent, the token too.
            raise ClusterError(f"cannot reach the API server at {self.name}: {why}", hint=hint) from None

    def _body(self, answer: Any, path: str) -> bytes:
        content = bytearray()
        for chunk in answer.stream(2**18):
            content += chunk
            if len(content) > LARGEST_PAGE:
                self.no_sense(path)
            if time.monotonic() > self._deadline:
                raise ClusterError(
                    f"{self.name} did not answer in the time allowed", hint=f"try again, {OR_FILE}"
                )
        return bytes(content)

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError: the answer to `path` is none of the API's."""
        where = path.partition("?")[0]
        raise ClusterError(
            f"{self.name} gave an answer to {where} that is not the API's",
            hint=f"check the server in the kubeconfig and any proxy, {OR_FILE}",
        ) from None


def _client(source: Source) -> ApiClient:
    """A client with the credentials of `source`. Raises ClusterError without any text of the kubeconfig."""
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config import load_incluster_config, load_kube_config

    context = chosen_context(source).name if source.files else None
    configuration = Configuration()
    # urllib3 would try again by itself, each time with a new timeout.
    configuration.retries = False
    held = _Held()
    root = logging.getLogger()
    root.addHandler(held)
    try:
        if source.files:
            load_kube_config(  # type: ignore[no-untyped-call]
                config_file=os.pathsep.join(source.files),
                context=context,
                client_configuration=configuration,
            )
        else:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        client = ApiClient(configuration=configuration)
    except Exception as error:
        raise ClusterError(
            "cannot use the configuration of the cluster: its credentials or certificates"
            f" cannot be read ({type(error).__name__})",
            hint="check it with kubectl cluster-info, or use -f FILE",
        ) from None
    finally:
        root.removeHandler(held)
    if held.first is not None:
        # The library logs that a credential plugin failed, and would go on as system:anonymous.
        raise ClusterError(
            f"the credential plugin of the kubeconfig failed: {quote(held.first)}",
            hint="run the command in the user's exec section by hand, or use -f FILE",
        )
    if not configuration.verify_ssl:
        import urllib3

        # The kubeconfig asks for it (insecure-skip-tls-verify); a warning a request says nothing new.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return client


class _Held(logging.Handler):
    """Keeps the first error that is logged by this thread."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.first: str | None = None
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if self.first is None and record.thread == self._thread:
            self.first = record.getMessage()


def _host(server: str) -> str:
    """Where the server is, without what a URL may hold besides (user:password@)."""
    try:
        parts = urlsplit(server)
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return "the server in the kubeconfig"
    return where if where.isascii() and where.isprintable() and len(where) <= 200 else quote(where)


def _why(error: Exception, *, timeout: float) -> tuple[str, str]:
    """An exception of the client, urllib3 or ssl in words, and what to do."""
    from kubernetes.client.exceptions import ApiException
    from urllib3 import exceptions

    hint = f"check the server in the kubeconfig and the network, {OR_FILE}"
    match error:
        case exceptions.NameResolutionError():
            why = "its name cannot be resolved"
        case exceptions.SSLError() | ApiException(status=0):
            why = f"TLS failed: {_tls_reason(error)}"
            hint = f"check certificate-authority and server in the kubeconfig, {OR_FILE}"
        case exceptions.ProxyError():
            why, hint = "the proxy cannot be reached", f"check proxy-url and HTTPS_PROXY, {OR_FILE}"
        case exceptions.NewConnectionError():
            cause = error.__cause__ or error.__context__
            why = str(getattr(cause, "strerror", None) or "no connection").lower()
        # After its subclass: in urllib3 2 a NewConnectionError is a ConnectTimeoutError too.
        case exceptions.TimeoutError():
            why = f"no answer within {timeout:g} s"
        case exceptions.ProtocolError() | exceptions.IncompleteRead():
            why = "the connection broke off"
        case ValueError() if not isinstance(error, exceptions.HTTPError):
            why = "the server's address or the credentials hold characters that HTTP does not allow"
            hint = f"log in again, or mend the kubeconfig, {OR_FILE}"
        case _:
            why = type(error).__name__
    return why, hint


def _tls_reason(error: BaseException | None) -> str:
    """OpenSSL's own words for what failed, such as `certificate has expired`."""
    import ssl

    while error is not None:
        inner = [error, *error.args]
        for one in inner:
            if isinstance(one, ssl.SSLCertVerificationError):
                return one.verify_message
            if isinstance(one, ssl.SSLError) and one.reason:
                return one.reason.lower().replace("_", " ")
        error = error.__cause__ or error.__context__
    return "the server's certificate or the client's is not accepted"
