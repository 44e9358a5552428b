"""Requests to the API server, with its authentication and TLS: for reading once, for watching, for writing.

The client library serves for configuration, authentication and TLS. What comes back is raw JSON (its
models cost four times the memory and seven times the time), what fails is a ClusterError.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from kvctl.cluster.client import make_client
from kvctl.cluster.failures import RefusedError, explained
from kvctl.cluster.kubeconfig import Source, find_source
from kvctl.cluster.lines import Lines
from kvctl.errors import ClusterError
from kvctl.model.text import quote

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

LARGEST_ANSWER = 256 * 2**20
_LARGEST_REFUSAL = 2**16
_BLOCK = 2**18
_LONGEST_WAIT = 300.0
"""Seconds: a Retry-After beyond is not obeyed to the letter."""
CREDENTIALS_SECONDS = 1.0
"""So long what the library said of credentials is taken for true.

It asks for a token file each minute and for a plugin's token five minutes before that ends, but it works out anew what
it knows, proxies too, at each question, which takes a fifth of the time of a request.
"""


class _Ready(NamedTuple):
    """All that a request needs."""

    client: ApiClient
    headers: Mapping[str, str]
    urlopen: Callable[..., Any]
    """urllib3's, of the one pool of connections to the server; of all of them where there is a proxy."""
    url: str
    """What comes before the path, as `urlopen` wants it."""
    until: float


def open_connection(*, kubeconfig: str | None, context: str | None) -> Connection:
    """A connection to the cluster that is configured; nothing is sent yet.

    Raises ClusterError if none is configured, or its configuration cannot be read.
    """
    source = find_source(kubeconfig=kubeconfig, context=context)
    if source is None:
        raise ClusterError(
            "no cluster configured: no kubeconfig, no KUBECONFIG, no account of a pod",
            hint="name a kubeconfig with --kubeconfig",
        )
    return Connection(source)


class Connection:
    """The API server of one configuration; several threads may use it at once.

    Credentials are read anew when the server does not accept them (401) or TLS fails; a token that ends by the
    client library before it does, and an account's every minute.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._client: ApiClient | None = make_client(source)
        self._ready: _Ready | None = None
        self.name = _host(self._client.configuration.host)

    def get(self, path: str, *, timeout: float, overall: float | None = None) -> Mapping[str, Any]:
        """The JSON object at `path`.

        `timeout`: how many seconds the server may be silent; `overall`: how many the answer may take, six
        times as many unless told. Raises RefusedError for a status but 200, else ClusterError.
        """
        end = time.monotonic() + (6 * timeout if overall is None else overall)
        timeout = min(timeout, max(0.001, end - time.monotonic()))
        answer = self._request("GET", path, timeout=timeout)
        return self._parsed(self._body(answer, path, end=end, timeout=timeout), path)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any],
        *,
        content_type: str = "application/json",
        timeout: float,
        overall: float | None = None,
    ) -> Mapping[str, Any]:
        """What the server answers to POST, PUT or PATCH of `body`; times and failures are those of `get`."""
        end = time.monotonic() + (6 * timeout if overall is None else overall)
        answer = self._request(method, path, timeout=timeout, body=body, content_type=content_type)
        return self._parsed(self._body(answer, path, end=end, timeout=timeout), path)

    @contextmanager
    def stream(self, path: str, *, timeout: float) -> Iterator[Lines]:
        """The lines at `path` as they come; a line that takes longer than `timeout` seconds is a ClusterError.

        Raises RefusedError for a status but 200. The connection is closed at the end: what is unread is
        nobody's.
        """
        answer = self._request("GET", path, timeout=timeout)
        try:
            yield Lines(answer, timeout=timeout, fail=lambda error: self._fail(error, timeout))
        finally:
            answer.close()

    def close(self) -> None:
        """Close what is idle; requests under way end by themselves, later ones connect anew."""
        with self._lock:
            self._ready = None
            if self._client is not None:
                self._client.rest_client.close()

    def no_sense(self, path: str) -> NoReturn:
        """Raise ClusterError: the answer to `path` is none of the API's."""
        where = path.partition("?")[0]
        raise ClusterError(
            f"{self.name} gave an answer to {where} that is not the API's",
            hint="check the server in the kubeconfig and any proxy",
        ) from None

    def _request(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        content_type: str | None = None,
    ) -> Any:
        """The answer to a request, of which nothing is read yet. The caller closes or releases it."""
        ready = None
        try:
            ready = self._prepared()
            kind = {} if content_type is None else {"Content-Type": content_type}
            answer = ready.urlopen(
                method,
                ready.url + path,
                body=None if body is None else json.dumps(body),
                headers={**ready.headers, **kind},
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except ClusterError:
            raise
        except Exception as error:
            if ready is not None and _is_tls(error):
                self._forget(ready.client)
            self._fail(error, timeout)
        if 200 <= answer.status < 300:
            return answer
        if answer.status == 401:
            self._forget(ready.client)
        raise self._refusal(answer)

    def _prepared(self) -> _Ready:
        """A client with the credentials of this moment."""
        with self._lock:
            if self._ready is None or time.monotonic() >= self._ready.until:
                if self._client is None:
                    self._client = make_client(self._source)
                self._ready = _ready(self._client)
            return self._ready

    def _forget(self, client: ApiClient) -> None:
        """Make a new client for the next request: this one's credentials or certificates may be of yesterday."""
        with self._lock:
            if self._client is client:
                # Not closed: another thread may be about to use it. What is idle is closed with its last user.
                self._client = self._ready = None

    def _fail(self, error: Exception, timeout: float) -> NoReturn:
        why, hint = explained(error, timeout=timeout)
        # Messages of the libraries may hold what was sent, the token too.
        raise ClusterError(f"cannot reach the API server at {self.name}: {why}", hint=hint) from None

    def _refusal(self, answer: Any) -> RefusedError:
        """What the server says with its refusal, as far as it says it in time and in its own language."""
        said: object = None
        with suppress(Exception):
            said = json.loads(answer.read(_LARGEST_REFUSAL))
        # Unread data would be mistaken for the next answer on this connection.
        answer.close()
        return refusal(
            said,
            status=answer.status,
            server=self.name,
            retry_after=_seconds(answer.headers.get("Retry-After")),
        )

    def _body(self, answer: Any, path: str, *, end: float, timeout: float) -> bytes:
        content = bytearray()
        try:
            while chunk := answer.read1(_BLOCK):
                content += chunk
                if len(content) > LARGEST_ANSWER:
                    self.no_sense(path)
                if time.monotonic() > end:
                    raise ClusterError(f"{self.name} did not answer in the time allowed", hint="try again")
        except ClusterError:
            answer.close()
            raise
        except Exception as error:
            answer.close()
            self._fail(error, timeout)
        answer.release_conn()
        return bytes(content)

    def _parsed(self, content: bytes, path: str) -> Mapping[str, Any]:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            self.no_sense(path)
        if not isinstance(value, dict):
            self.no_sense(path)
        return value


def refusal(
    said: object, *, status: int | None = None, server: str, retry_after: float | None = None
) -> RefusedError:
    """A Status object of the API as an error; what it does not hold is passed over."""
    value = said if isinstance(said, dict) else {}
    details = value.get("details")
    if retry_after is None and isinstance(details, dict):
        retry_after = _seconds(details.get("retryAfterSeconds"))
    code, reason, message = value.get("code"), value.get("reason"), value.get("message")
    if status is None:
        status = code if isinstance(code, int) and 100 <= code <= 999 else 500
    return RefusedError(
        status,
        server=server,
        reason=reason if isinstance(reason, str) else "",
        said=message if isinstance(message, str) else "",
        retry_after=retry_after,
    )


def _ready(client: ApiClient) -> _Ready:
    _, _, headers, *_ = client.param_serialize(
        "GET", "", header_params={"Accept": "application/json"}, auth_settings=["BearerToken"]
    )
    # Only now: the library may have changed the configuration with the token.
    host, pools = client.configuration.host, client.rest_client.pool_manager
    urlopen: Callable[..., Any]
    if pools.proxy is None:
        urlopen, url = pools.connection_from_url(host).urlopen, urlsplit(host).path
    else:
        urlopen, url = pools.urlopen, host
    return _Ready(
        client,
        # A token file may end with a newline, which is none of the token.
        {name: str(value).rstrip("\r\n") for name, value in headers.items()},
        urlopen,
        url,
        until=time.monotonic() + CREDENTIALS_SECONDS,
    )


def _seconds(text: object) -> float | None:
    """Retry-After in seconds; a date, which the API never sends, is passed over."""
    try:
        return min(max(0.0, float(int(str(text)))), _LONGEST_WAIT)
    except ValueError:
        return None


def _is_tls(error: Exception) -> bool:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import SSLError

    return isinstance(error, SSLError) or (isinstance(error, ApiException) and error.status == 0)


def _host(server: str) -> str:
    """Where the server is, without what a URL may hold besides (user:password@)."""
    try:
        parts = urlsplit(server)
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return "the server in the kubeconfig"
    return where if where.isascii() and where.isprintable() and len(where) <= 200 else quote(where)
