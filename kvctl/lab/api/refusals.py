"""What the API server says to what it does not do, by status code and as the object that a client reads."""

from __future__ import annotations

from kvctl.lab.api.kinds import Object


class RefusedError(Exception):
    """The client is told this; in a watch it is the last event."""

    def __init__(
        self, code: int, reason: str = "", message: str = "", *, retry_after: int | None = None
    ) -> None:
        super().__init__(message or reason)
        self.code = code
        self.retry_after = retry_after
        """Seconds; None: the client is not told when to try again."""
        self.body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if retry_after is not None:
            self.body["details"] = {"retryAfterSeconds": retry_after}


class FaultyRequestError(RefusedError):
    """A request that is wrong in itself, whatever the objects are."""


def not_found(what: str) -> RefusedError:
    """404: no such object."""
    return RefusedError(404, "NotFound", f"{what} not found")


def conflict(reason: str, name: str) -> RefusedError:
    """409: the object is not, or not any more, what the client takes it for."""
    return RefusedError(409, reason, f"{name} is not as you think")


def expired(what: str) -> RefusedError:
    """410: the client has to list anew."""
    return RefusedError(410, "Expired", what)


def bad(what: str) -> FaultyRequestError:
    """400: the server cannot read this."""
    return FaultyRequestError(400, "BadRequest", what)


def invalid(what: str) -> FaultyRequestError:
    """422: the server can read this, and does not want it."""
    return FaultyRequestError(422, "Invalid", what)


def unsupported(kind: str | None) -> FaultyRequestError:
    """415: no such content type here."""
    return FaultyRequestError(415, "UnsupportedMediaType", f"not as {kind}")
