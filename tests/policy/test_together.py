"""Services with pods in common: who they are, and that nobody else has to be compared."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from kvctl.model.net import Family, parse_address
from kvctl.model.policy import EgressPod, EgressPolicy
from kvctl.model.ref import ServiceRef
from kvctl.policy.together import Sharing, judged_together
from kvctl.policy.verdict import Fate, Skipped, Wanted

NAMES = "abcde"
PODS = st.frozensets(st.integers(1, 5), max_size=3)
CHANGES = st.lists(st.tuples(st.sampled_from(NAMES), PODS, st.booleans()), max_size=12)


def verdict(name: str, pods: frozenset[int], *, dropped: bool) -> Wanted | Skipped:
    """A Service with these pods; its traffic is rewritten, or dropped."""
    policy = EgressPolicy(
        ref=ServiceRef("sip", name),
        family=Family.IPV4,
        vip=parse_address("192.168.0.245"),
        pods=tuple(EgressPod.named(IPv4Address(f"10.0.0.{pod}"), name=f"p{pod}") for pod in sorted(pods)),
    )
    if not dropped:
        return Wanted(policy)
    return Skipped(ref=policy.ref, reason="elsewhere", fate=Fate.LOSE, family=Family.IPV4, drop=policy)


@given(CHANGES)
def test_who_shares_a_pod_is_known_after_each_change_and_the_others_are_judged_as_if_compared(
    changes: list[tuple[str, frozenset[int], bool]],
) -> None:
    sharing, now = Sharing(), dict[str, Wanted | Skipped]()
    having = dict[str, frozenset[int]]()
    for name, pods, dropped in changes:
        before = [now[name]] if name in now else []
        now[name], having[name] = verdict(name, pods, dropped=dropped), pods
        sharing.change(ServiceRef("sip", name), before=before, after=[now[name]])
        assert sharing.refs == {
            ServiceRef("sip", one)
            for one, its in having.items()
            if any(its & others for other, others in having.items() if other != one)
        }
        everybody = {ServiceRef("sip", name) for name in NAMES}
        judged = list(now.values())
        assert judged_together(judged, sharing=sharing.refs) == judged_together(judged, sharing=everybody)


def test_who_is_gone_shares_nothing() -> None:
    sharing = Sharing()
    one, other = (verdict(name, frozenset({1}), dropped=False) for name in "ab")
    for each in (one, other):
        sharing.change(ServiceRef("sip", "a" if each is one else "b"), before=(), after=(each,))
    assert len(sharing.refs) == 2
    sharing.change(ServiceRef("sip", "a"), before=(one,), after=())
    assert sharing.refs == set()
