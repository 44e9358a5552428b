"""What somebody has to mend, said once in a while: two hundred Leases fail for one reason."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from kvctl.errors import ClusterError

_REPEAT = 300.0
"""Seconds until the same is said again."""
_MOST = 100


class Complaints:
    """Says what goes wrong with Leases; from any thread."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def failed(self, error: ClusterError) -> None:
        """A request failed."""
        hint = f" ({error.hint})" if error.hint else ""
        self._once(f"Leases: {error.message}{hint}")

    def fault(self, error: Exception) -> None:
        """kvctl is at fault."""
        self._once(f"Leases: a fault of kvctl: {type(error).__name__}: {error}")

    def guard(self, call: Callable[[], None]) -> None:
        """Call it: no callback may end a thread that others rely on."""
        try:
            call()
        except Exception as error:
            self.fault(error)

    def _once(self, text: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._said.get(text, -math.inf) < _REPEAT:
                return
            if len(self._said) >= _MOST:
                self._said.clear()
            self._said[text] = now
        self._say(text)
