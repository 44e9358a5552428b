"""Where is asked from and to: names, families, and how many at once."""

from __future__ import annotations

import socket

import pytest

from kvctl.errors import InputError
from kvctl.model.net import parse_address
from kvctl.verify.expected import NamedPod
from kvctl.verify.places import MOST_PODS, among, of_family, resolve


def test_a_name_has_an_address_of_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ("192.0.2.1", "fe80::1%eth0", "192.0.2.2", "2001:db8::1", "2001:db8::2")
    answer = [(0, 0, 0, "", (address, 0)) for address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert list(map(str, resolve("echo.example"))) == ["192.0.2.1", "2001:db8::1"]
    assert list(map(str, resolve("198.51.100.1"))) == ["198.51.100.1"]


def test_a_name_without_an_address_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(InputError, match=r'--to "no\.\\x1bsuch" has no address: Name or service not known'):
        resolve("no.\x1bsuch")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("fe80::1%eth0", 0, 0, 2))])
    with pytest.raises(InputError, match="has no address that can be asked"):
        resolve("link.example")


def test_so_many_pods_are_asked_from_and_the_others_are_counted() -> None:
    pods = [NamedPod(parse_address(f"10.0.{n // 256}.{n % 256}"), "") for n in range(MOST_PODS + 1)]
    assert among(pods[:-1]) == (pods[:-1], None)
    assert among(pods) == (pods[:-1], "only 100 of 101 pods are asked from")


def test_a_source_that_is_expected_is_asked_of_its_own_family_alone() -> None:
    four, six = parse_address("192.0.2.1"), parse_address("2001:db8::1")
    vip = parse_address("192.0.2.245")
    assert of_family([four], vip) == ([four], None)
    assert of_family([four, six], vip) == (
        [four],
        "2001:db8::1 is not asked: --expect 192.0.2.245 is of the other address family",
    )
    with pytest.raises(InputError, match=r"--expect 192\.0\.2\.245 is never seen at 2001:db8::1") as error:
        of_family([six], vip)
    assert error.value.hint == "give an IPv6 address with --expect, or an IPv4 one with --to"
