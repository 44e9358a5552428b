"""The three times of an election, and what makes them sound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from kvctl.errors import UsageError
from kvctl.model.text import quote

LONGEST = 3600
"""Seconds; a holder that dies is waited for so long."""
_JITTER = 1.2


class Terms(NamedTuple):
    """Seconds. The defaults are those of kube-vip and of client-go."""

    duration: float = 15.0
    """So long after its last renewal others leave a Lease to its holder."""
    renew_deadline: float = 10.0
    """So long after the sending of its last good renewal the holder uses what it holds."""
    retry_period: float = 2.0
    """Between two renewals, or two looks of a candidate."""

    @property
    def written(self) -> int:
        """leaseDurationSeconds, which are whole and at least 1: others wait rather too long."""
        return max(1, math.ceil(self.duration))


_VARIABLES = {
    "duration": "vip_leaseduration",
    "renew_deadline": "vip_renewdeadline",
    "retry_period": "vip_retryperiod",
}


def read_terms(environ: Mapping[str, str]) -> Terms:
    """The terms of vip_leaseduration, vip_renewdeadline and vip_retryperiod, whole seconds; unset or empty: as ever.

    Raises UsageError that names the variable at fault.
    """
    read = {name: _seconds(environ, variable) for name, variable in _VARIABLES.items()}
    terms = Terms(**{name: value for name, value in read.items() if value is not None})
    _check(terms)
    return terms


def _seconds(environ: Mapping[str, str], variable: str) -> float | None:
    text = environ.get(variable, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= LONGEST):
        raise UsageError(
            f"{variable} is {quote(text)}, not a whole number of seconds from 1 to {LONGEST}",
            hint="write 15 for fifteen seconds, without a unit",
        )
    return float(text)


def _check(terms: Terms) -> None:
    """client-go's conditions (tools/leaderelection, NewLeaderElector), and time to tear down."""
    duration, deadline, retry = terms
    if deadline <= _JITTER * retry:
        raise UsageError(
            f"vip_renewdeadline ({deadline:g} s) is not more than {_JITTER:g} times vip_retryperiod ({retry:g} s): "
            "one failed renewal would cost the Lease",
            hint="make vip_renewdeadline longer, or vip_retryperiod shorter",
        )
    # Clocks may differ in speed by a few per cent; what is left is the time to tear down in.
    spare = max(1.0, duration / 10)
    left = duration - deadline
    if left < spare:
        why = (
            f"is {'shorter' if left else 'no longer'} than vip_renewdeadline ({deadline:g} s): another node "
            "would take over while this one still uses the VIP"
            if left <= 0
            else f"leaves {left:g} s after vip_renewdeadline ({deadline:g} s) to tear down before another node takes "
            f"over: it takes {spare:g} s"
        )
        raise UsageError(
            f"vip_leaseduration ({duration:g} s) {why}",
            hint=f"set vip_leaseduration to {math.ceil(max(deadline + 1, deadline / 0.9))} at least, "
            "or make vip_renewdeadline shorter",
        )
