"""Why there was no answer, in words, and what to do about it: most that is lost never left the pod's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from kvctl.model.net import Address
from kvctl.verify.sender import Loss

_HOW = {
    Loss.UNSENT: "could not be sent by the pod itself",
    Loss.UNREACHABLE: "found no way there",
    Loss.STAYED: "did not leave the pod, where the destination is an address, too",
}


def how_lost(losses: Counter[Loss], asked: str, *, of_all: Collection[Loss]) -> str:
    """What became of all that is lost, after its number; `losses` of the questions `asked`, the worst of it."""
    kinds = losses.most_common()
    if len(of_all) == 1 and kinds and kinds[0][0] in _HOW:
        return f"{_HOW[kinds[0][0]]}: {asked}"
    return f"had no answer: {asked}: {named(losses)}"


def named(losses: Counter[Loss]) -> str:
    """All of them, counted if they are of several kinds."""
    kinds = losses.most_common()
    return ", ".join(str(loss) if len(kinds) == 1 else f"{count} {loss}" for loss, count in kinds)


def step_after(losses: Counter[Loss], source: Address, destination: Address) -> str | None:
    """What to look at in the pod, where it may not have left it at all; None: nothing tells that."""
    loss = next((loss for loss, _ in losses.most_common()), None)
    route = f"ip route get {destination} from {source}"
    if loss is Loss.UNSENT:
        return f"see in the pod's network namespace: {route}; ss -s (is a port free?); iptables-save (its own rules)"
    if loss is Loss.UNREACHABLE:
        return f"see whether the pod has a route (in its namespace: {route}); if so, somebody on the way refuses it"
    if loss is Loss.STAYED:
        return f"see in the pod's network namespace who has put {destination} there: {route}"
    return None
