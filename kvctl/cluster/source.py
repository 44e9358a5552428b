"""A thread that asks the API server again and again, with patience, and can be stopped at once."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from kvctl.cluster.failures import RefusedError
from kvctl.cluster.lines import Lines
from kvctl.cluster.pace import BackOff, Pace
from kvctl.errors import ClusterError


class SourceState(NamedTuple):
    """How one source is doing."""

    name: str
    """The kind as RBAC calls it, such as `endpointslices.discovery.k8s.io`; `ranges`: pod and service CIDRs."""
    synced: bool
    """The first full picture is in, or the server has said that there is none to have."""
    refused: int | None
    """The status by which the server says so (403, 404)."""
    last_contact: float | None
    """Monotonic seconds of the last list, event, bookmark or reconnect."""
    lists: int
    watches: int
    events: int
    errors: int
    last_error: str | None
    """In words; None: nothing has failed since the last contact."""
    failures: int = 0
    """Since the last contact."""


Tell = Callable[[SourceState], None]
"""Hears of each failure of a source, and of the first contact after some; from the source's own thread."""


class UnexpectedError(ClusterError):
    """A mistake of ours, or an object that nobody thought of."""


class Source(ABC):
    """The thread. Subclasses say what one round is; `notify` is called when something may have changed."""

    def __init__(
        self, name: str, *, notify: Callable[[], None], pace: Pace, tell: Tell = lambda state: None
    ) -> None:
        self.name = name
        self.synced = False
        self.refused: int | None = None
        self._notify = notify
        self._tell = tell
        self._pace = pace
        self._back_off = BackOff(pace)
        self._last_contact: float | None = None
        self._last_error: str | None = None
        self._lists = self._watches = self._events = self._errors = self._failures = 0
        self._stopping = False
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._lines: Lines | None = None
        # A thread that waits for an answer cannot be woken; it must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, whatever it waits for. What a request under way still brings is thrown away."""
        self._stopping = True
        self._wake()

    def join(self, seconds: float) -> bool:
        """Whether the thread has ended, within `seconds`."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def state(self) -> SourceState:
        """How it is doing."""
        return SourceState(
            name=self.name,
            synced=self.synced,
            refused=self.refused,
            last_contact=self._last_contact,
            lists=self._lists,
            watches=self._watches,
            events=self._events,
            errors=self._errors,
            last_error=self._last_error,
            failures=self._failures,
        )

    def _wake(self) -> None:
        with self._lock:
            self._woken.set()
            if self._lines is not None:
                self._lines.interrupt()

    def _run(self) -> None:
        while True:
            self._woken.clear()
            if self._stopping:
                return
            try:
                delay = self._round()
            except ClusterError as error:
                delay = self._failed(error)
            except Exception as error:
                # A thread that dies would leave a picture that nobody keeps current, in silence.
                delay = self._failed(UnexpectedError(f"unexpected {type(error).__name__} in {self.name}"))
            if delay > 0 and not self._stopping:
                self._pace.pause(self._woken, delay)

    @abstractmethod
    def _round(self) -> float:
        """Do the work, as long as it goes well; then how many seconds to pause."""

    def _failed(self, error: ClusterError) -> float:
        if self._stopping:
            return 0.0
        self._errors += 1
        self._failures += 1
        self._last_error = error.message
        self._tell(self.state())
        return self._back_off.failed(
            retry_after=error.retry_after if isinstance(error, RefusedError) else None
        )

    def _contact(self) -> None:
        self._last_contact = self._pace.now()
        self._last_error = None
        self._back_off.contact()
        if self._failures:
            self._failures = 0
            self._tell(self.state())
