"""What an elector wants sent to the API server."""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from kvctl.cluster.leases import Lease


class Purpose(Enum):
    """Why a request is sent."""

    LOOK = "look"
    CLAIM = "claim"
    RELEASE = "release"


class Ask(NamedTuple):
    """A request: to read, to create (a Lease without a version) or to update."""

    purpose: Purpose
    lease: Lease
    patience: float
    """Seconds until it has failed."""
    not_after: float = math.inf
    """Monotonic seconds: it may not be sent then or later."""
