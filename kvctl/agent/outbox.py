"""What is to be sent to the API server, so that the loop never waits for it: one thread, a bounded queue."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

from kvctl.cluster.failures import RefusedError
from kvctl.errors import ClusterError, KvctlError

TRIES = 5
# Not now, or not with these credentials: the same request may go through later. The rest will be refused for ever.
_PASSING = frozenset({401, 408, 429})


class Letter(Protocol):
    """Something to send."""

    @property
    def namespace(self) -> str:
        """Where it goes: permission may end at a namespace."""


L = TypeVar("L", bound=Letter)


class Limits(NamedTuple):
    """How much is sent, and kept to be sent."""

    waiting: int = 1000
    per_second: float = 10.0
    at_once: int = 50
    """So many may go without a pause after a quiet time."""
    first_pause: float = 1.0
    """Seconds before the second try, doubled for each further one."""
    forbidden_seconds: float = 3600.0
    """How long nothing more is sent to a namespace after a 403."""


class Outbox(Generic[L]):
    """Sends letters, a later one of the same key in the earlier's place, in the order of their keys' first coming.

    Namespaces take turns, and where room is lacking the one with most loses: no tenant holds up the others' letters.
    `send` raises ClusterError where it failed. `complain` is told in a line what somebody has to mend, `count`
    the result of each letter: `sent`, `refused` (for good), `dropped` (no room, or not sent after several tries).
    """

    def __init__(
        self,
        send: Callable[[L], None],
        *,
        what: str,
        complain: Callable[[str], None],
        count: Callable[[str, str], None] = lambda what, result: None,
        limits: Limits = Limits(),  # noqa: B008 (a value)
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._send = send
        self._what = what
        self._complain = complain
        self._count = count
        self._limits = limits
        self._clock = clock
        self._chance = chance
        self._changed = threading.Condition()
        self._waiting: dict[str, dict[Hashable, L]] = {}
        """By namespace, the one whose turn is next first; none is empty."""
        self._forbidden: dict[str, float] = {}
        self._allowance = float(limits.at_once)
        self._counted = clock()
        self._busy = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, *, patience: float = 0.0) -> None:
        """End; what is still waiting gets `patience` seconds, and is lost then."""
        end = self._clock() + patience
        with self._changed:
            while (self._waiting or self._busy) and self._clock() < end and self._thread.is_alive():
                self._changed.wait(min(0.05, max(0.001, end - self._clock())))
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def put(self, key: Hashable, letter: L) -> bool:
        """Leave a letter to be sent; False: it will not be, for lack of room or of permission. Never waits."""
        with self._changed:
            until = self._forbidden.get(letter.namespace)
            if until is not None and self._clock() < until:
                return False
            if key not in self._waiting.get(letter.namespace, ()) and not self._room_for(letter.namespace):
                self._count(self._what, "dropped")
                return False
            self._waiting.setdefault(letter.namespace, {})[key] = letter
            self._changed.notify_all()
            return True

    def _room_for(self, namespace: str) -> bool:
        """Whether one more letter to this namespace has room; takes it from the one that has most, if that has more."""
        if sum(map(len, self._waiting.values())) < self._limits.waiting:
            return True
        most = max(self._waiting, key=lambda other: len(self._waiting[other]))
        if len(self._waiting[most]) <= len(self._waiting.get(namespace, ())) + 1:
            return False
        self._waiting[most].popitem()
        self._count(self._what, "dropped")
        return True

    def _run(self) -> None:
        while (letter := self._next()) is not None:
            result = self._try(letter)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            self._count(self._what, result)

    def _next(self) -> L | None:
        """The next letter, when it may go; None: stopped."""
        with self._changed:
            while not self._stopped:
                pause = self._pause() if self._waiting else None
                if pause == 0:
                    self._allowance -= 1
                    self._busy = True
                    return self._take()
                self._changed.wait(pause)
        return None

    def _take(self) -> L:
        namespace = next(iter(self._waiting))
        letters = self._waiting.pop(namespace)
        letter = letters.pop(next(iter(letters)))
        if letters:
            self._waiting[namespace] = letters
        return letter

    def _pause(self) -> float:
        """How long the next one has to wait for its turn."""
        now = self._clock()
        rate = self._limits.per_second
        earned = (now - self._counted) * rate
        self._allowance = min(float(self._limits.at_once), self._allowance + earned)
        self._counted = now
        return 0.0 if self._allowance >= 1 else max(0.001, (1 - self._allowance) / rate)

    def _try(self, letter: L) -> str:
        """Send it, several times if need be."""
        for attempt in range(TRIES):
            try:
                self._send(letter)
            except RefusedError as error:
                if error.status not in _PASSING and error.status < 500:
                    self._refused(letter, error)
                    return "refused"
                pause = error.retry_after
            except ClusterError:
                pause = None
            except Exception as error:
                self._complain(f"{self._what}: a fault of kvctl: {type(error).__name__}: {error}")
                return "dropped"
            else:
                return "sent"
            if attempt < TRIES - 1 and not self._wait(pause, attempt):
                break
        return "dropped"

    def _wait(self, told: float | None, attempt: int) -> bool:
        """Wait before the next try; False: stopped meanwhile."""
        backed_off = self._limits.first_pause * 2**attempt * (1 + self._chance())
        end = self._clock() + max(told or 0.0, backed_off)
        with self._changed:
            while not self._stopped and (left := end - self._clock()) > 0:
                self._changed.wait(left)
            return not self._stopped

    def _refused(self, letter: L, error: KvctlError) -> None:
        """Only for lack of permission is there something to mend: what has gone meanwhile is nobody's fault."""
        if not isinstance(error, RefusedError) or error.status != 403:
            return
        with self._changed:
            now = self._clock()
            first = not any(until > now for until in self._forbidden.values())
            # The namespace may only be on its way out, which is a 403 too: so others' are still tried.
            self._forbidden.pop(letter.namespace, None)
            self._forbidden[letter.namespace] = now + self._limits.forbidden_seconds
            if len(self._forbidden) > self._limits.waiting:
                del self._forbidden[next(iter(self._forbidden))]
            self._waiting.pop(letter.namespace, None)
        if first:
            self._complain(
                f"{self._what} are not accepted, for now no more are sent there (namespace {letter.namespace}, and "
                f"others alike): {error.message}"
            )
