"""What a watching thread calls, counted."""

from __future__ import annotations

import threading
import time


class Marks:
    """To be called as `notify`; knows when that happened."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._called = threading.Condition()

    def __call__(self) -> None:
        with self._called:
            self.times.append(time.monotonic())
            self._called.notify_all()

    def __len__(self) -> int:
        return len(self.times)

    def wait(self, *, more_than: int = 0, seconds: float = 5.0) -> bool:
        """Whether there are more than so many calls, at the latest after `seconds`."""
        with self._called:
            return self._called.wait_for(lambda: len(self.times) > more_than, timeout=seconds)
