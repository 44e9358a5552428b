"""Whether an address is free, asked beside the loop: a probe takes about as long as all the rest of a hand-over."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from kvctl.model.net import Address
from kvctl.node.announce import Announced

FRESH = 5.0
"""Seconds that an answer counts, from when the probe ended."""
AGAIN = 10.0
"""Seconds until an address that somebody answers for is asked about again."""


class Prober:
    """Asks for all addresses that came since the last probe at once, in a thread of its own.

    `ask` does it, as `node.probe.answered` does; what it raises is raised by the next `take`. `notify` is called
    when there are answers, and when it is time to ask anew for an address that somebody had: then `take` again.
    """

    def __init__(
        self,
        ask: Callable[[Collection[Announced]], Mapping[Address, str]],
        *,
        notify: Callable[[], None],
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._notify = notify
        self._complain = complain
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[Announced, None] = {}
        self._asking: frozenset[Announced] = frozenset()
        self._free: dict[Announced, float] = {}
        """Those that nobody answered for, and until when that counts."""
        self._taken: dict[Address, float] = {}
        """Those that somebody answered for, and when they may be asked for again."""
        self._failure: Exception | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def start(self) -> None:
        """Begin to ask, in the network namespace of the calling thread."""
        self._thread.start()

    def stop(self, *, patience: float = 1.0) -> None:
        """End; a probe under way gets `patience` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(patience)

    def want(self, addresses: Iterable[Announced]) -> None:
        """Ask for those of which nothing is known. From any thread; never waits for an answer."""
        with self._changed:
            self._put(addresses)

    def take(self, addresses: Collection[Announced]) -> set[Announced]:
        """Those that nobody answers for, as was asked a moment ago; the others are asked for.

        An answer serves once: what is not bound by it is asked for again.
        """
        with self._changed:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            now = self._clock()
            free = {each for each in addresses if self._free.pop(each, -math.inf) > now}
            self._put(each for each in addresses if each not in free)
            return free

    def _put(self, addresses: Iterable[Announced]) -> None:
        now = self._clock()
        fresh = [each for each in addresses if not self._is_known(each, now)]
        self._waiting.update(dict.fromkeys(fresh))
        if fresh:
            self._changed.notify_all()

    def _is_known(self, each: Announced, now: float) -> bool:
        """Whether there is an answer, or will be by the probe that is under way."""
        return (
            each in self._asking
            or self._free.get(each, -math.inf) > now
            or self._taken.get(each.address, -math.inf) > now
        )

    # The thread.

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._probe(batch)
            self._notify()

    def _next(self) -> frozenset[Announced] | None:
        """What is to be asked for; empty: one that was taken may be free by now; None: stopped."""
        with self._changed:
            while not self._stopped:
                if self._waiting:
                    self._asking, self._waiting = frozenset(self._waiting), {}
                    return self._asking
                now = self._clock()
                over = [address for address, until in self._taken.items() if until <= now]
                for address in over:
                    del self._taken[address]
                if over:
                    return frozenset()
                self._changed.wait(min(self._taken.values()) - now if self._taken else None)
        return None

    def _probe(self, batch: frozenset[Announced]) -> None:
        answers: Mapping[Address, str] = {}
        failure: Exception | None = None
        try:
            answers = self._ask(batch)
        except Exception as error:
            failure = error
        with self._changed:
            self._asking, self._failure = frozenset(), failure
            if failure is None:
                now = self._clock()
                self._free = {each: until for each, until in self._free.items() if until > now}
                self._free |= {each: now + FRESH for each in batch if each.address not in answers}
                self._taken |= dict.fromkeys(answers, now + AGAIN)
        for address, mac in answers.items():
            self._complain(
                f"the VIP {address} is not bound: {mac} answers for it on the network already; "
                "find who it is, or give the Service another address"
            )
