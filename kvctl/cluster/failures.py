"""What goes wrong between kvctl and an API server, in words."""

from __future__ import annotations

from http import HTTPStatus

from kvctl.errors import ClusterError
from kvctl.model.text import quote

_KNOWN = frozenset(HTTPStatus)


class RefusedError(ClusterError):
    """The API server answered with another status than success.

    `reason` is the machine-readable word of its Status object (`AlreadyExists`, `Expired`), empty if it
    sent none; `retry_after` the seconds it asks to wait.
    """

    def __init__(
        self,
        status: int,
        *,
        server: str = "the API server",
        reason: str = "",
        said: str = "",
        retry_after: float | None = None,
    ) -> None:
        words = f": {quote(said)}" if said else ""
        super().__init__(f"{server} answered {status_words(status)}{words}", hint=_refusal_hint(status))
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


def status_words(status: int) -> str:
    """The status with its phrase: `403 Forbidden`."""
    return f"{status} {HTTPStatus(status).phrase}" if status in _KNOWN else str(status)


def _refusal_hint(status: int) -> str | None:
    if status == 401:
        return "the credentials are not accepted: log in again, choose another --context"
    return "grant the verb in RBAC" if status == 403 else None


def explained(error: Exception, *, timeout: float) -> tuple[str, str]:
    """An exception of the client, urllib3 or ssl in words, and what to do."""
    from kubernetes.client.exceptions import ApiException
    from urllib3 import exceptions

    hint = "check the server in the kubeconfig and the network"
    match error:
        case exceptions.NameResolutionError():
            why = "its name cannot be resolved"
        case exceptions.SSLError() | ApiException(status=0):
            why = f"TLS failed: {_tls_reason(error)}"
            hint = "check certificate-authority and server in the kubeconfig"
        case exceptions.ProxyError():
            why, hint = "the proxy cannot be reached", "check proxy-url and HTTPS_PROXY"
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
            hint = "log in again, or mend the kubeconfig"
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
