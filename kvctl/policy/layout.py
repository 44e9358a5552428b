"""What the rules look like: chains, how they follow each other and what they are called.

    nat     POSTROUTING -> KVCTL-EGRESS [-> KVCTL-IN-<prefix> ...] -> KVCTL-TO-<prefix>
                        -> KVCTL-SVC-<hash> [-> KVCTL-OUT-<hash>] -> SNAT
    mangle  POSTROUTING -> KVCTL-DROP [-> KVCTL-DIN-<prefix> ...] -> KVCTL-DTO-<prefix> [-> KVCTL-DPASS-<hash> ...]
                        -> KVCTL-DROP-<hash> [-> KVCTL-DOUT-<hash>] -> DROP
                        -> KVCTL-GRD-<hash> -> DROP, of what is rewritten only while heartbeats come
    mangle  PREROUTING -> KVCTL-MARK [-> KVCTL-MIN-<prefix> ...] -> KVCTL-MTO-<prefix> [-> KVCTL-DPASS-<hash> ...]
                        -> KVCTL-MRK-<hash> -> MARK

By KVCTL-IN-<prefix> packets find out whether they are of a pod with egress, and which; what is not comes no further.
KVCTL-TO-<prefix> returns what is never rewritten, and leads the rest to the Services of its pod.

What the comments of the rules say is in `comments`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from kvctl.model.net import Address, Network
from kvctl.model.ref import ServiceRef
from kvctl.model.rules import (
    CHAIN_PREFIX,
    DROP_IN_PREFIX,
    DROP_OUT_PREFIX,
    DROP_PASS_PREFIX,
    DROP_SERVICE_PREFIX,
    DROP_TO_PREFIX,
    GUARD_PREFIX,
    MARK_IN_PREFIX,
    MARK_PREFIX,
    MARK_TO_PREFIX,
    Hook,
)

LAYOUT = 1
"""Part of every tag: rules of another layout are replaced even where they look alike."""

# RFC 4648, section 6, two digits at a time: base64.b32encode takes four times as long.
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def _find_sha256() -> Callable[[bytes], Any]:
    """What hashlib hands out where there is no OpenSSL, if it can be had alone, as random.py of the library takes it.

    Loading OpenSSL takes longer than all that is hashed by a command that looks.
    """
    for module in ("_sha2" if sys.version_info >= (3, 12) else "_sha256", "hashlib"):
        with suppress(ImportError, AttributeError):
            found: Callable[[bytes], Any] = import_module(module).sha256
            return found
    raise ImportError("this Python has no SHA-256")


_sha256 = _find_sha256()


def digest(*parts: object) -> str:
    """80 bits of a hash in base32: 16 characters that a chain name and a bare comment may hold."""
    data = "\0".join(map(str, (LAYOUT, *parts))).encode()
    hashed = _sha256(data).digest()
    a, b = int.from_bytes(hashed[:5]), int.from_bytes(hashed[5:10])
    return (
        f"{_PAIRS[a >> 30]}{_PAIRS[a >> 20 & 1023]}{_PAIRS[a >> 10 & 1023]}{_PAIRS[a & 1023]}"
        f"{_PAIRS[b >> 30]}{_PAIRS[b >> 20 & 1023]}{_PAIRS[b >> 10 & 1023]}{_PAIRS[b & 1023]}"
    )


@lru_cache(maxsize=65536)
def _of_service(prefix: str, role: str, ref: ServiceRef) -> str:
    return prefix + digest(role, ref)


def _named(prefix: Network) -> str:
    if prefix.version == 4:
        return f"{prefix.network_address}-{prefix.prefixlen}"
    return digest("prefix", prefix)


class Names(NamedTuple):
    """How the chains of one hook are called, from there to the Services."""

    hook: Hook
    branch: str
    gated: str
    service: str
    out: str
    role: str = "service"

    @property
    def root(self) -> str:
        """The chain that our hook jumps to."""
        return self.hook.root

    def service_chain(self, ref: ServiceRef) -> str:
        """The chain of a Service; the same name in both families' tables. 27 characters at most."""
        return _of_service(self.service, self.role, ref)

    def out_chain(self, ref: ServiceRef) -> str:
        """The chain with the ports of a Service that has networks too."""
        return _of_service(self.out, self.role, ref)

    def branch_chain(self, prefix: Network) -> str:
        """The chain that tells the pods of a prefix from others: in clear for IPv4 (28 characters), a hash for IPv6."""
        return self.branch + _named(prefix)

    def gated_chain(self, prefix: Network) -> str:
        """The chain that leads the pods of a prefix, and nobody else, to their Services; named in the same way."""
        return self.gated + _named(prefix)

    def is_service(self, chain: str) -> bool:
        """Whether this is some Service's chain."""
        return chain.startswith(self.service)

    def is_out(self, chain: str) -> bool:
        """Whether this is the chain with some Service's ports."""
        return chain.startswith(self.out)

    def is_dispatch(self, chain: str) -> bool:
        """Whether this chain leads from the hook to the Services."""
        return chain == self.root or chain.startswith((self.branch, self.gated))


REWRITING = Names(
    hook=Hook.EGRESS,
    branch=CHAIN_PREFIX + "IN-",
    gated=CHAIN_PREFIX + "TO-",
    service=CHAIN_PREFIX + "SVC-",
    out=CHAIN_PREFIX + "OUT-",
)
DROPPING = Names(
    hook=Hook.DROP,
    branch=DROP_IN_PREFIX,
    gated=DROP_TO_PREFIX,
    service=DROP_SERVICE_PREFIX,
    out=DROP_OUT_PREFIX,
)
COMING = DROPPING._replace(role="coming")
"""What is dropped by a Service's new rules, for the moment in which its old ones drop too."""

MARKING = Names(
    hook=Hook.MARK, branch=MARK_IN_PREFIX, gated=MARK_TO_PREFIX, service=MARK_PREFIX, out=MARK_PREFIX
)
"""Its Services' chains are named by `mark_chain`."""


_ROOTS = frozenset(names.root for names in (REWRITING, DROPPING, MARKING))
_LEADING = tuple(prefix for names in (REWRITING, DROPPING, MARKING) for prefix in (names.branch, names.gated))


def service_chain(ref: ServiceRef) -> str:
    """The chain that rewrites for a Service."""
    return REWRITING.service_chain(ref)


def out_chain(ref: ServiceRef) -> str:
    """The chain with the ports of a Service that has networks too."""
    return REWRITING.out_chain(ref)


def chains_of(ref: ServiceRef) -> tuple[str, ...]:
    """Every chain that is a Service's own."""
    return tuple(
        chain
        for names in (REWRITING, DROPPING, COMING)
        for chain in (names.service_chain(ref), names.out_chain(ref))
    )


def is_dispatch_chain(name: str) -> bool:
    """Whether this chain leads from one of our hooks to the Services."""
    return name in _ROOTS or name.startswith(_LEADING)


def pass_chain(*content: object) -> str:
    """A chain that lets pass what Services of higher rank take; of equal content there is one. 28 characters."""
    return DROP_PASS_PREFIX + digest("pass", *content)


def is_pass_chain(name: str) -> bool:
    """Whether this is a chain of `pass_chain`."""
    return name.startswith(DROP_PASS_PREFIX)


def guard_chain(*content: object) -> str:
    """A chain that drops while heartbeats are late; of equal content there is one. 26 characters."""
    return GUARD_PREFIX + digest("guard", *content)


def mark_chain(*content: object) -> str:
    """A chain that marks; of equal content there is one. 26 characters."""
    return MARK_PREFIX + digest("mark", *content)


def is_content_named(name: str) -> bool:
    """Whether this is a chain of `guard_chain`, `mark_chain` or `pass_chain`: what it holds never changes."""
    return name.startswith((GUARD_PREFIX, MARK_PREFIX, DROP_PASS_PREFIX))


def fence_name(vip: Address) -> str:
    """The list of xt_recent for what leaves with this VIP. 22 characters, of 199 that xt_recent allows."""
    return f"kvctl-{digest('fence', vip).lower()}"
