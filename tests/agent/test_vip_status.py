"""Services hear who holds their VIP: once, and again only when that is not what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from kvctl.agent.vip_status import AGAIN_SECONDS, VipStatus
from kvctl.model.net import parse_address
from kvctl.model.objects import Ingress
from tests.builders import ref, service
from tests.waiting import until

VIP = parse_address("192.168.0.245")
FRESH = service()._replace(ingress=())
NAMED = {"kube-vip.io/vipHost": "worker"}


class Api:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any],
        *,
        content_type: str,
        timeout: float,
    ) -> Mapping[str, Any]:
        self.sent.append((path.partition("?")[0].rpartition("/")[2], body))
        return {}


class Teller:
    """A VipStatus whose time is moved by hand."""

    def __init__(self) -> None:
        self.api = Api()
        self.time = 0.0
        self.status = VipStatus(self.api, node="worker", complain=pytest.fail, clock=lambda: self.time)
        self.status.start()

    def sent(self) -> list[tuple[str, Any]]:
        """All that has been sent so far."""
        outbox = self.status._outbox
        until(lambda: not outbox._waiting and not outbox._busy)
        return self.api.sent


@pytest.fixture
def teller() -> Iterator[Teller]:
    """Nothing has been told yet."""
    made = Teller()
    yield made
    made.status.stop()


def test_a_vip_that_is_here_is_written_with_the_holder(teller: Teller) -> None:
    teller.status.holds(FRESH, [VIP])
    assert teller.sent() == [
        ("status", {"status": {"loadBalancer": {"ingress": [{"ip": "192.168.0.245"}]}}}),
        ("sip-client", {"metadata": {"annotations": NAMED}}),
    ]


def test_what_the_service_says_already_is_not_written(teller: Teller) -> None:
    teller.status.holds(service(annotations=NAMED), [VIP])
    assert teller.sent() == []
    teller.status.holds(service(), [VIP])
    assert [what for what, _ in teller.sent()] == ["sip-client"]
    teller.status.holds(service(annotations=NAMED)._replace(ingress=(Ingress("192.0.2.1"),)), [VIP])
    assert [what for what, _ in teller.sent()] == ["sip-client", "status"]


def test_the_same_is_not_written_each_round_but_again_when_the_server_does_not_show_it(
    teller: Teller,
) -> None:
    for _ in range(5):
        teller.status.holds(FRESH, [VIP])
        assert len(teller.sent()) == 2
    teller.time += AGAIN_SECONDS
    teller.status.holds(FRESH, [VIP])
    assert len(teller.sent()) == 4


def test_who_gives_up_takes_its_own_name_back(teller: Teller) -> None:
    teller.status.gives_up(ref("sip/sip-client"))
    where = "/metadata/annotations/kube-vip.io~1vipHost"
    assert teller.sent() == [
        ("sip-client", [{"op": "test", "path": where, "value": "worker"}, {"op": "remove", "path": where}])
    ]


def test_what_a_person_wrote_stays_and_what_kvctl_wrote_follows(teller: Teller) -> None:
    both = (Ingress("192.168.0.245"), Ingress("192.168.0.7"))
    a_persons = service(annotations=NAMED)._replace(ingress=both, status_managers=("kubectl",))
    teller.status.holds(a_persons, [VIP])
    assert teller.sent() == []
    own = a_persons._replace(status_managers=("kvctl",))
    teller.status.holds(own, [VIP])
    assert teller.sent() == [("status", {"status": {"loadBalancer": {"ingress": [{"ip": "192.168.0.245"}]}}})]


def test_an_address_that_nothing_but_the_status_names_is_not_lost_while_it_is_not_bound(
    teller: Teller,
) -> None:
    both = (Ingress("192.168.0.245"), Ingress("2001:db8:1::245"))
    own = service(annotations=NAMED)._replace(ingress=both, status_managers=("kvctl",))
    teller.status.holds(own, [VIP])
    assert teller.sent() == []
    asking = own._replace(annotations={**own.annotations, "kube-vip.io/loadbalancerIPs": str(VIP)})
    teller.status.holds(asking, [VIP])
    assert [what for what, _ in teller.sent()] == ["status"]
