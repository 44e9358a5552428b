"""How long one election waits: for an answer, after a failure, after a conflict."""

from __future__ import annotations

from collections.abc import Callable

from kvctl.election.terms import Terms

_FIRST_PAUSE = 0.1
"""Of a retry period: before the second try of a renewal; doubled for each further one."""
_LONGEST_PAUSE_BOUND = 0.5
"""Of a retry period, while there is something to lose."""
_LONGEST_PAUSE = 4.0
"""Retry periods of a candidate."""
_MOST_DOUBLINGS = 16


class Patience:
    """Counts what went wrong; all in seconds. `chance` gives numbers from 0 up to 1."""

    def __init__(self, *, terms: Terms, chance: Callable[[], float]) -> None:
        self._terms = terms
        self._chance = chance
        self._failures = 0
        self._conflicts = 0

    def reset(self) -> None:
        """All is well."""
        self._failures = self._conflicts = 0

    def answered(self) -> None:
        """The server is there."""
        self._failures = 0

    def for_an_answer(self) -> float:
        """A dead connection has to be found out quickly, a slow server needs time: first the one, then the other."""
        return min(self._terms.retry_period * self._doubled(self._failures), self._terms.renew_deadline)

    def after_failure(self, *, bound: bool) -> float:
        """Before the next try; `bound`: there is something to lose by waiting."""
        self._failures += 1
        if bound:
            return self._short(self._failures)
        periods = min(self._doubled(self._failures), _LONGEST_PAUSE)
        return periods * self._terms.retry_period * (0.8 + 0.4 * self._chance())

    def after_conflict(self) -> float:
        """Often it is but an annotation; from the second time on somebody seems to write all the time."""
        self._conflicts += 1
        return 0.0 if self._conflicts == 1 else self._short(self._conflicts - 1)

    def between_looks(self) -> float:
        """Until a candidate looks again."""
        return self._terms.retry_period * (0.8 + 0.4 * self._chance())

    def between_renewals(self, *, first: bool) -> float:
        """From one renewal to the next. The first ones of a node that has just started are spread over the period."""
        share = max(0.25, self._chance()) if first else 0.9 + self._chance() / 10
        return self._terms.retry_period * share

    def before_taking(self) -> float:
        """After a Lease has come free, so that not all candidates write in one moment."""
        return self._terms.retry_period * 0.05 * self._chance()

    def _short(self, times: int) -> float:
        share = min(_FIRST_PAUSE * self._doubled(times - 1), _LONGEST_PAUSE_BOUND)
        return share * self._terms.retry_period * (0.5 + self._chance() / 2)

    def _doubled(self, times: int) -> float:
        return 2.0 ** min(times, _MOST_DOUBLINGS)
