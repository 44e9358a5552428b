"""What the rules cost each packet and each new connection: of a pod without egress, and of one with it.

    sudo python -m benchmarks.datapath [--services 1,10,100,1000,5000] [--backend nft,legacy] [--chunks 100]

Two labs of the same make, one without rules of kvctl's; chunk by chunk the same frames go through both, so that
whatever else this machine does meets both alike. The ratio is the median of the chunks'; 1 is no difference.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks import clusters
from benchmarks.ring import CHUNK, Ring, Tuple, hardware_address
from benchmarks.rows import Bar, Row, median, spread
from kvctl.lab.build import Lab, built, unique_prefix
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD, standard
from kvctl.model.net import Family

_PORT = 5060
_WHO = STANDARD[Family.IPV4]
_TO = IPv4Address(_WHO.outside_eth1)
_PORTS = range(1024, 65536 - CHUNK)
_BARS = {
    ("bystander", "packets"): {1000: 0.97},
    ("bystander", "new connections"): {1000: 0.95, 5000: 0.90},
    ("egress pod", "new connections"): {1000: 0.90},
}


def measure(*, backend: str, services: int, chunks: int) -> Iterator[Row]:
    """The rows of one size. `chunks`: how many times `CHUNK` packets for each."""
    with ExitStack() as stack:
        bare, ruled = (
            stack.enter_context(built(standard(backend=backend), prefix=unique_prefix("bench")))
            for _ in range(2)
        )
        for lab in (bare, ruled):
            # Somebody listens, or the outside would answer each packet that nobody does.
            sink = stack.enter_context(lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sink.bind((_WHO.outside_eth1, _PORT))
        apply(ruled, services=services, backend=backend)
        for who, name, address in (
            ("bystander", "pod", _WHO.pod),
            ("egress pod", "peer", clusters.EGRESS_POD),
        ):
            with _ring(bare, name) as plain, _ring(ruled, name) as other:
                for what, source in (("packets", _one_flow), ("new connections", _new_flows)):
                    for lab in (bare, ruled):
                        forget(lab.worker)
                    pairs = list(_pairs(plain, other, source(address, chunks + 2)))[2:]
                    yield _row(who, what, backend, services, pairs)


def apply(lab: Lab, *, services: int, backend: str) -> None:
    """Have kvctl write the rules of so many Services."""
    with tempfile.TemporaryDirectory() as directory:
        source = clusters.write(Path(directory, "cluster.json"), services=services)
        told = "--nftables" if backend == "nft" else "--no-nftables"
        done = lab.kvctl(
            *("egress", "apply", "-f", str(source), "--node", "worker", "--assume-vip", "-o", "json", told),
            deadline=300,
        )
    if done.status != 0:
        raise SystemExit(f"kvctl egress apply: {done.stderr}")


def forget(worker: Namespace) -> None:
    """Empty the table of connections."""
    worker.run(["conntrack", "-F"])


def _ring(lab: Lab, name: str) -> Ring:
    number = [each.name for each in lab.topology.pods].index(name)
    return Ring(lab[name], interface="eth0", to=hardware_address(lab.worker, f"veth{number}"))


def _one_flow(address: str, chunks: int) -> Iterator[Sequence[Tuple]]:
    for _ in range(chunks):
        yield [Tuple(IPv4Address(address), 4000, _TO, _PORT)]


def _new_flows(address: str, chunks: int) -> Iterator[Sequence[Tuple]]:
    source = IPv4Address(address)
    for number in range(chunks):
        first = _PORTS[number * CHUNK % len(_PORTS)]
        yield [Tuple(source, first + each, _TO, _PORT) for each in range(CHUNK)]


def _pairs(plain: Ring, other: Ring, chunks: Iterator[Sequence[Tuple]]) -> Iterator[tuple[float, float]]:
    """Seconds a packet, without and with rules; who goes first changes."""
    for number, chunk in enumerate(chunks):
        both = (plain, other) if number % 2 else (other, plain)
        for ring in both:
            ring.load(chunk)
        seconds = {ring: ring.send() / CHUNK for ring in both}
        yield seconds[plain], seconds[other]


def _row(who: str, what: str, backend: str, services: int, pairs: Sequence[tuple[float, float]]) -> Row:
    plain, with_rules = ([pair[place] * 1e6 for pair in pairs] for place in (0, 1))
    bound = _BARS.get((who, what), {}).get(services)
    against = "no rules of kvctl's" if who == "bystander" else "MASQUERADE"
    return Row(
        part="datapath",
        measure=f"{who}, {what}",
        backend=backend,
        services=services,
        value=median(with_rules),
        unit="µs each",
        spread=spread(with_rules),
        against=against,
        other=median(plain),
        # As rates compare: less time is more packets.
        ratio=median([bare / ruled for bare, ruled in pairs]),
        bar=Bar(bound, at_most=False) if bound is not None else None,
    )


def main() -> None:
    """Print the rows."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--services", default="1,10,100,1000,5000")
    options.add_argument("--backend", default="nft,legacy")
    # No port is used twice: more chunks than this would be connections that are there already.
    options.add_argument("--chunks", type=int, default=100, choices=range(1, len(_PORTS) // CHUNK - 2))
    told = options.parse_args()
    # One processor: what another one does in the background is not measured.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for backend in told.backend.split(","):
        for services in map(int, told.services.split(",")):
            for row in measure(backend=backend, services=services, chunks=told.chunks):
                verdict = {True: f"as it has to be ({row.bar})", False: f"NOT {row.bar}", None: ""}[row.meets]
                print(
                    f"{row.backend:<6} {row.services:>5} Services  {row.measure:<27} {row.value:>6.2f} {row.unit}, "
                    f"{row.other:>6.2f} with {row.against:<20} ratio {row.ratio:.3f}  {verdict}"
                )


if __name__ == "__main__":
    main()
