"""Where the agent listens and is asked: one port a node."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from kvctl.errors import UsageError
from kvctl.model.net import parse_address
from kvctl.model.text import quote

DEFAULT_PORT = 9744
DEFAULT_LISTEN = f":{DEFAULT_PORT}"


class Listen(NamedTuple):
    """Where to listen; an empty host is every address of both families."""

    host: str
    port: int

    def __str__(self) -> str:
        return _joined(self.host, self.port)


class AgentAddress(NamedTuple):
    """Whom to ask."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{_joined(self.host, self.port)}"


def parse_listen(text: str, *, where: str = "egress_listen") -> Listen | None:
    """`:9744`, `127.0.0.1:9744`, `[::1]:9744`; None for `off` and nothing. Raises UsageError, which names `where`."""
    if text.strip().lower() in ("", "off"):
        return None
    host, colon, port = text.strip().rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise ValueError(text)
        if host and (parse_address(bare).version == 6) != (bare != host):
            raise ValueError(text)
    except ValueError:
        raise UsageError(
            f"{where}: {quote(text)} is neither an address with a port nor off",
            hint=f"write it like {DEFAULT_LISTEN}, 127.0.0.1:{DEFAULT_PORT}, [::1]:{DEFAULT_PORT}, or off",
        ) from None
    return Listen(bare, int(port))


def parse_agent(url: str, *, where: str) -> AgentAddress:
    """`http://ADDRESS[:PORT]`. Raises UsageError, which names `where` the value comes from."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
        if parts.scheme == "http" and parts.hostname and plain:
            return AgentAddress(parts.hostname, port)
    except ValueError:
        pass
    raise UsageError(
        f"{where}: {quote(url)} is not the address of an agent",
        hint=f"write it like http://192.168.0.240:{DEFAULT_PORT}, or http://[fd00::240]:{DEFAULT_PORT}",
    )


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
