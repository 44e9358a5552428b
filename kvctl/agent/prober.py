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
AGAIN = (0.5, 1.0, 2.0, 4.0, 10.0)
"""Seconds until an address that was not free is asked for again, from time to time; the last holds for all further
ones. At first it may be somebody who is about to leave."""
SPACING = 0.1
"""Seconds from the beginning of one probe to that of the next."""
_AT_ONCE = 5
"""Probes that are under way: of a hundred addresses that come one by one the last must not wait for all before it."""


class Prober:
    """Asks for all addresses that came since the last probe began at once, in threads of its own.

    `ask` says what keeps each address from being taken, in words; what it raises is raised by the next `take`. `notify`
    is called when there are answers, and when it is time to ask anew for an address that somebody had: then `take`
    again.
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
        self._asking: set[Announced] = set()
        self._begun = -math.inf
        """When the last probe began."""
        self._free: dict[Announced, float] = {}
        """Those that nobody answered for, and until when that counts."""
        self._taken: dict[Address, float] = {}
        """Those that were not free, and when they may be asked for again."""
        self._tries: dict[Address, int] = {}
        """How many times in a row an address was not free."""
        self._why: Mapping[Address, str] = {}
        """What was in the way of each of them."""
        self._failure: Exception | None = None
        self._news = False
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"prober-{number}", daemon=True)
            for number in range(_AT_ONCE)
        ]

    def start(self) -> None:
        """Begin to ask, in the network namespace of the calling thread."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, patience: float = 1.0) -> None:
        """End; probes under way get `patience` seconds in all."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        end = time.monotonic() + patience
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def want(self, addresses: Iterable[Announced]) -> None:
        """Ask for those of which nothing is known. From any thread; never waits for an answer."""
        with self._changed:
            self._put(addresses)

    def take(self, addresses: Collection[Announced]) -> set[Announced]:
        """Those that nobody answers for, as was asked a moment ago; the others are asked for.

        An answer serves once: what is not bound by it is asked for again.
        """
        with self._changed:
            failure, self._failure, self._news = self._failure, None, False
            if failure is not None:
                raise failure
            now = self._clock()
            free = {each for each in addresses if self._free.pop(each, -math.inf) > now}
            self._put(each for each in addresses if each not in free)
            return free

    def obstacle(self, address: Address) -> str | None:
        """What has kept an address from being taken more than once, in words."""
        with self._changed:
            return self._why.get(address) if self._tries.get(address, 0) > 1 else None

    def has_news(self) -> bool:
        """Whether `notify` was called since the last `take`, or is about to be."""
        with self._changed:
            return self._news

    def is_asking(self, addresses: Iterable[Announced]) -> bool:
        """Whether there will be news of one of these."""
        with self._changed:
            return any(each in self._waiting or each in self._asking for each in addresses)

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

    # The threads.

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._probe(batch)
            self._notify()

    def _next(self) -> frozenset[Announced] | None:
        """What is to be asked for; empty: one that was taken may be free by now; None: stopped."""
        with self._changed:
            while not self._stopped:
                now = self._clock()
                if self._waiting and now >= self._begun + SPACING:
                    batch, self._waiting, self._begun = frozenset(self._waiting), {}, now
                    self._asking |= batch
                    return batch
                over = [address for address, until in self._taken.items() if until <= now]
                for address in over:
                    del self._taken[address]
                if over:
                    self._news = True
                    return frozenset()
                self._changed.wait(self._left(now))
        return None

    def _left(self, now: float) -> float | None:
        """Seconds until there is something to do; None: not before something happens."""
        next_probe = self._begun + SPACING if self._waiting else math.inf
        due = min((next_probe, *self._taken.values()))
        return None if due == math.inf else max(0.0, due - now)

    def _probe(self, batch: frozenset[Announced]) -> None:
        answers: Mapping[Address, str] = {}
        failure: Exception | None = None
        try:
            answers = self._ask(batch)
        except Exception as error:
            failure = error
        with self._changed:
            self._asking -= batch
            self._news = True
            if failure is not None:
                self._failure = failure
            else:
                self._learn(batch, answers)
            tries = {address: self._tries.get(address, 0) for address in answers}
        for address, why in answers.items():
            # Not at the first time: where a VIP moves, its last holder may be a moment slower.
            if tries[address] > 1:
                self._complain(
                    f"the VIP {address} is not bound: {why}; find who it is, or give the Service another address"
                )

    def _learn(self, batch: frozenset[Announced], answers: Mapping[Address, str]) -> None:
        now = self._clock()
        self._free = {each: until for each, until in self._free.items() if until > now}
        self._free |= {each: now + FRESH for each in batch if each.address not in answers}
        for address in {each.address for each in batch} - answers.keys():
            self._tries.pop(address, None)
        for address in answers:
            tries = self._tries[address] = self._tries.get(address, 0) + 1
            self._taken[address] = now + AGAIN[min(tries, len(AGAIN)) - 1]
        self._why = {a: why for a, why in {**self._why, **answers}.items() if a in self._tries}
