"""Services at random, programmed on a worker as by `apply` or the agent: plain, fenced, led, without their VIP."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from kvctl.lab.topology import STANDARD
from kvctl.model.net import Family, parse_address
from kvctl.model.objects import Service
from kvctl.model.policy import Fence
from kvctl.netfilter import fence
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.layout import fence_name
from kvctl.policy.resolve import resolve
from kvctl.policy.verdict import Wanted
from kvctl.reconcile.leading import lead
from kvctl.reconcile.look import look
from kvctl.reconcile.run import apply
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish
from tests.builders import objects, service
from tests.kernel.node import SECOND_VIPS, VIPS, Worker, lab_pod

NOT_HERE = ("192.168.0.99", "2001:db8:1::99")
GATEWAYS = ",".join(who.outside_eth1 for who in STANDARD.values())
_DROP = {"kvctl.io/without-vip": "drop"}
_LED = {"kube-vip.io/serviceInterface": "eth1", "kvctl.io/gateway": GATEWAYS}
_SECONDS = 3600


def services(chance: Random) -> list[Service]:
    """One or two of the lab's pod."""
    ports = chance.choice((None, None, None, "udp:5060,tcp:443", "udp:53,udp:7000-8100"))
    denied = chance.choice(
        (None, None, None, "192.168.0.0/24,2001:db8:1::/64", "172.16.0.250/32,2001:db8::250/128")
    )
    allowed = chance.choice((None, None, "192.168.0.0/24,2001:db8:1::/64"))
    first = service(
        vip=chance.choice((*[VIPS] * 4, NOT_HERE)),
        ports=ports,
        denied=denied,
        allowed=allowed,
        annotations={**chance.choice(({}, _DROP)), **chance.choice(({}, {}, _LED))},
    )
    if chance.random() < 0.5:
        return [first]
    more = chance.choice(({}, _LED))
    app = {"app": "sip-client"}
    return [
        first,
        service("sip/other", vip=SECOND_VIPS, selector=app, ports="tcp:7000,udp:8050", annotations=more),
    ]


def program(worker: Worker, chance: Random) -> None:
    """Make the kernel so; where Services are fenced, their heartbeats come or have stopped."""
    fenced, beating = chance.random() < 0.4, chance.random() < 0.5
    with worker.lab["worker"].entered(), namespace_lock(timeout=10):
        host = read_host()
        resolution = resolve(objects(*services(chance), lab_pod()), worker.settings, host=host)
        if fenced:
            resolution = replace(resolution, wanted=tuple(map(_with_fence, resolution.wanted)))
        led = lead(resolution, host=host)
        assert led.open() == []
        wish = Wish(led.resolution, scope=Scope(prune=True), settings=worker.settings, host=host)
        apply(look(told=None), wish, drop_connections=True)
        assert led.close() == []
        names = [it.policy.fence.name for it in led.resolution.wanted if it.policy.fence is not None]
        if fenced and beating:
            families = {fence_name(parse_address(each)): Family.IPV4 for each in (VIPS[0], SECOND_VIPS[0])}
            assert not fence.beat([(families.get(name, Family.IPV6), name) for name in names])
        else:
            assert not fence.still(names)


def _with_fence(it: Wanted) -> Wanted:
    if it.policy.vip in map(parse_address, NOT_HERE):
        return it
    its = Fence(fence_name(it.policy.vip), _SECONDS)
    return it._replace(policy=it.policy._replace(fence=its))
