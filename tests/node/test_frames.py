"""Frames byte by byte against the RFCs, and what is read from the frames of others."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.model.net import Address, parse_address
from kvctl.node.frames import Claim, announcement, mac_text, probe, read_claim, solicited_node

V4, V6 = parse_address("192.168.0.245"), parse_address("2001:db8::1:245")
MAC, OTHER = bytes.fromhex("020000000a0b"), bytes.fromhex("020000000c0d")

ARP_REQUEST = bytes.fromhex(
    "ffffffffffff 020000000a0b 0806"  # to all, from us, ARP
    "0001 0800 06 04 0001"  # Ethernet, IPv4, lengths, request
    "020000000a0b c0a800f5"  # sender
    "000000000000 c0a800f5"  # target
)
ARP_REPLY = bytes.fromhex(
    "ffffffffffff 020000000a0b 0806 0001 0800 06 04 0002 020000000a0b c0a800f5 020000000a0b c0a800f5"
)
ARP_PROBE = bytes.fromhex(
    "ffffffffffff 020000000a0b 0806 0001 0800 06 04 0001 020000000a0b 00000000 000000000000 c0a800f5"
)
ADVERTISEMENT = bytes.fromhex(
    "333300000001 020000000a0b 86dd"
    "60000000 0020 3a ff"  # version 6, 32 bytes, ICMPv6, hop limit 255
    "20010db8000000000000000000010245"
    "ff020000000000000000000000000001"
    "88 00 ea96 20000000"  # type 136, code 0, checksum, Override alone
    "20010db8000000000000000000010245"
    "02 01 020000000a0b"  # target link-layer address
)
SOLICITATION = bytes.fromhex(
    "3333ff010245 020000000a0b 86dd"
    "60000000 0018 3a ff"
    "00000000000000000000000000000000"
    "ff0200000000000000000001ff010245"
    "87 00 4863 00000000"
    "20010db8000000000000000000010245"
)
KERNEL_DETECTION = bytes.fromhex(
    # What Linux 6.18 sends for an address it is about to take: with a nonce, RFC 7527.
    "3333ff010245 020000000c0d 86dd 60000000 0020 3a ff"
    "00000000000000000000000000000000 ff0200000000000000000001ff010245"
    "87 00 0000 00000000 20010db8000000000000000000010245 0e01 a1b2c3d4e5f6"
)


def sum_of_words(text: bytes) -> int:
    """RFC 1071 as it is written there."""
    total = 0
    for place in range(0, len(text) - 1, 2):
        total += text[place] << 8 | text[place + 1]
    if len(text) % 2:
        total += text[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def checksum(frame: bytes) -> int:
    """That of an ICMPv6 message, by RFC 8200, 8.1, as if its own were 0."""
    body = frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
    pseudo = frame[22:54] + len(body).to_bytes(4, "big") + bytes((0, 0, 0, 58))
    return sum_of_words(pseudo + body[:2] + bytes(2) + body[4:])


def with_checksum(frame: bytes) -> bytes:
    return frame[:56] + checksum(frame).to_bytes(2, "big") + frame[58:]


def changed(frame: bytes, place: int, value: bytes) -> bytes:
    return frame[:place] + value + frame[place + len(value) :]


def test_frames_are_laid_out_as_the_rfcs_say() -> None:
    assert announcement(V4, mac=MAC) == (ARP_REQUEST, ARP_REPLY)
    assert probe(V4, mac=MAC) == ARP_PROBE
    assert announcement(V6, mac=MAC) == (ADVERTISEMENT,)
    assert probe(V6, mac=MAC) == SOLICITATION


@given(address=st.ip_addresses(v=6), mac=st.binary(min_size=6, max_size=6))
def test_checksums_are_those_of_the_rfc(address: Address, mac: bytes) -> None:
    for frame in (*announcement(address, mac=mac), probe(address, mac=mac)):
        assert int.from_bytes(frame[56:58], "big") == checksum(frame)


def test_solicitations_go_to_the_group_of_the_last_three_bytes() -> None:
    assert solicited_node(IPv6Address("2001:db8::12:3456:789a")) == IPv6Address("ff02::1:ff56:789a")


@given(address=st.ip_addresses(), mac=st.binary(min_size=6, max_size=6))
def test_what_is_announced_or_asked_for_is_claimed(address: Address, mac: bytes) -> None:
    none = address.packed.count(0) == len(address.packed)
    for frame in (*announcement(address, mac=mac), probe(address, mac=mac)):
        claim = read_claim(frame)
        assert claim == Claim(address, mac) or none


@pytest.mark.parametrize(
    ("frame", "claim"),
    [
        (ARP_REQUEST + bytes(18), Claim(V4, MAC)),
        (changed(ARP_PROBE, 28, bytes((192, 168, 0, 7))), Claim(parse_address("192.168.0.7"), MAC)),
        (with_checksum(KERNEL_DETECTION), Claim(V6, OTHER)),
        (ADVERTISEMENT + b"trailer", Claim(V6, MAC)),
        (with_checksum(changed(ADVERTISEMENT, 80, OTHER)), Claim(V6, OTHER)),
        (with_checksum(changed(ADVERTISEMENT, 78, b"\1\1")), Claim(V6, MAC)),
        (with_checksum(changed(ADVERTISEMENT, 79, b"\0")), Claim(V6, MAC)),
        (with_checksum(changed(SOLICITATION, 22, parse_address("2001:db8::9").packed)),
         Claim(parse_address("2001:db8::9"), MAC)),
    ],
    ids=[
        "padded", "who asks for another", "the kernel's own detection", "with a trailer",
        "another hardware address than the frame's", "without a hardware address", "with an empty option",
        "who solicits by it",
    ],
)  # fmt: skip
def test_who_has_an_address_is_told_by_what_it_sends(frame: bytes, claim: Claim) -> None:
    assert read_claim(frame) == claim


@pytest.mark.parametrize(
    "frame",
    [
        changed(ARP_PROBE, 21, b"\2"),
        changed(ARP_REQUEST, 21, b"\3"),
        changed(ARP_REQUEST, 15, b"\6"),
        changed(ARP_REQUEST, 12, b"\x08\x00"),
        with_checksum(changed(ADVERTISEMENT, 21, b"\x40")),
        with_checksum(changed(ADVERTISEMENT, 55, b"\1")),
        with_checksum(changed(ADVERTISEMENT, 54, b"\x86")),
        with_checksum(changed(ADVERTISEMENT, 20, b"\x11")),
        changed(ADVERTISEMENT, 56, b"\0\0"),
    ],
    ids=[
        "a reply from 0.0.0.0", "reverse ARP", "no Ethernet", "no ARP", "through a router",
        "another code", "a router's advertisement", "UDP", "damaged",
    ],
)  # fmt: skip
def test_what_is_no_claim_is_passed_over(frame: bytes) -> None:
    assert read_claim(frame) is None


@pytest.mark.parametrize("whole", [ARP_REQUEST, ADVERTISEMENT, SOLICITATION])
def test_what_is_cut_off_is_passed_over(whole: bytes) -> None:
    assert read_claim(whole) is not None
    assert all(read_claim(whole[:length]) is None for length in range(len(whole)))


@given(st.sampled_from([ARP_REQUEST, ADVERTISEMENT]), st.data())
def test_nothing_that_is_heard_can_raise(whole: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(whole)))
    read_claim(changed(whole, place, data.draw(st.binary(max_size=40))))
    read_claim(data.draw(st.binary(max_size=100)))
    read_claim(with_checksum(ADVERTISEMENT[:78] + data.draw(st.binary(min_size=8, max_size=8))))


def test_a_hardware_address_reads_as_people_write_it() -> None:
    assert mac_text(MAC) == "02:00:00:00:0a:0b"
