"""Servers and clients of the lab tell the truth about what the other end saw."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from kvctl.lab.echo import Echo, Heard
from kvctl.lab.netns import Namespace
from kvctl.lab.traffic import Connection, Sender, probe


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1"])
def test_an_echo_tells_the_source_it_saw(namespace: Namespace, protocol: str, address: str) -> None:
    with Echo(namespace, ports=[7001, 7002]) as echo:
        seen = probe(namespace, destination=address, port=7002, protocol=protocol, source_port=33333)
        assert seen is not None
        assert seen.source_port == 33333
        assert (seen.destination, seen.destination_port) == (address, 7002)
        heard = Heard(protocol=protocol, source=seen.source, destination_port=7002)
        assert dict(echo.heard) == {heard: 1}
        assert echo.sources(protocol=protocol, port=7002) == {seen.source}
        assert echo.sources(port=7001) == set()


def test_a_given_source_address_is_what_is_seen(namespace: Namespace) -> None:
    with Echo(namespace, ports=[7001]):
        seen = probe(namespace, source="127.0.0.5", destination="127.0.0.1", port=7001)
    assert seen is not None
    assert seen.source == "127.0.0.5"


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_nothing_is_seen_where_nobody_answers(namespace: Namespace, protocol: str) -> None:
    assert probe(namespace, destination="127.0.0.1", port=7001, protocol=protocol, timeout=0.5) is None
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 7001))
        assert probe(namespace, destination="127.0.0.1", port=7001, timeout=0.1) is None


def test_an_impossible_source_is_an_error_and_not_silence(namespace: Namespace) -> None:
    with pytest.raises(OSError, match="assign requested address"):
        probe(namespace, source="203.0.113.1", destination="127.0.0.1", port=7001)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_connection_keeps_its_port_over_many_requests(namespace: Namespace, protocol: str) -> None:
    target = {"destination": "127.0.0.1", "port": 7001, "protocol": protocol}
    with Echo(namespace, ports=[7001]), Connection(namespace, **target) as connection:  # type: ignore[arg-type]
        answers = [connection.ask() for _ in range(5)]
        ports = {answer.source_port for answer in answers if answer is not None}
        assert None not in answers
        assert ports == {connection.local_port}


def test_a_tcp_connection_notices_that_the_server_has_gone(namespace: Namespace) -> None:
    with Echo(namespace, ports=[7001]):
        connection = Connection(namespace, destination="127.0.0.1", port=7001, protocol="tcp")
        assert connection.ask() is not None
    with connection:
        assert connection.ask() is None


@pytest.mark.parametrize("fresh", [True, False])
def test_a_sender_counts_every_source_until_it_is_stopped(namespace: Namespace, fresh: bool) -> None:
    with Echo(namespace, ports=[7001]) as echo:
        with Sender(namespace, destination="127.0.0.1", port=7001, fresh=fresh) as sender:
            sender.wait_for(20)
        assert set(sender.sources) == {"127.0.0.1"}
        assert sender.sources.total() >= 20
        assert sender.unanswered == 0
        assert echo.heard.total() == sender.sources.total()


def test_what_stops_a_sender_is_raised_and_not_swallowed(namespace: Namespace) -> None:
    sender = Sender(namespace, destination="127.0.0.1", port=7001, source="203.0.113.1")
    with pytest.raises(OSError, match="assign requested address"), sender:
        sender.wait_for(1)


def test_threads_and_sockets_are_gone_afterwards(namespace: Namespace) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    echo = Echo(namespace, ports=range(7001, 7021))
    with echo, Sender(namespace, destination="127.0.0.1", port=7001, protocol="tcp") as sender:
        sender.wait_for(5)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
