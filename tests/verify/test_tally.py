"""Counting and saying what came of questions."""

from __future__ import annotations

import pytest

from kvctl.model.net import Address, parse_address
from kvctl.model.policy import PortMatch
from kvctl.model.ref import ServiceRef
from kvctl.verify.expected import Expectation, Kind
from kvctl.verify.sender import Loss, Outcome
from kvctl.verify.tally import Asked, Tally, Verdict, counts, next_steps, sentence, verdict_of

VIP, NODE, POD, OUTSIDE = map(parse_address, ("192.168.0.245", "192.168.0.240", "10.0.0.1", "192.168.0.250"))
SIP = ServiceRef("sip", "sip-client")
WANTED = Expectation(Kind.VIP, address=VIP, service=SIP)
SPARED = Expectation(Kind.NOT_VIP, service=SIP, vips=frozenset((VIP,)))
SILENT = Expectation(Kind.SILENCE, service=SIP)
NOBODYS = Expectation(Kind.NOTHING)
BROKEN = Expectation(Kind.BROKEN, service=SIP, fault="KVCTL-SVC-A is empty, somebody has flushed it")
PORTS = (PortMatch("udp", 5060, 5061),)


def tally(
    *seen: Address | Loss,
    expected: Expectation = WANTED,
    protocol: str = "udp",
    port: int = 5060,
    of: ServiceRef | None = None,
    ports: tuple[PortMatch, ...] = (),
) -> Tally:
    made = Tally(Asked(POD, OUTSIDE, port, protocol, expected, pod="sip-client-0", of=of, ports=ports))
    for each in seen:
        made.add(outcome(each))
    return made


def outcome(seen: Address | Loss) -> Outcome:
    return Outcome("udp", loss=seen) if isinstance(seen, Loss) else Outcome("udp", source=seen)


def whose(address: Address, pod: Address) -> str:
    return "the node's"


@pytest.mark.parametrize(
    ("expected", "seen", "verdict"),
    [
        (WANTED, VIP, Verdict.RIGHT),
        (WANTED, NODE, Verdict.WRONG),
        (WANTED, Loss.SILENCE, Verdict.LOST),
        (SPARED, NODE, Verdict.RIGHT),
        (SPARED, VIP, Verdict.WRONG),
        (SPARED, Loss.REFUSED, Verdict.LOST),
        (SILENT, Loss.SILENCE, Verdict.RIGHT),
        (SILENT, NODE, Verdict.WRONG),
        (SILENT, Loss.REFUSED, Verdict.WRONG),
        (SILENT, Loss.BROKEN, Verdict.WRONG),
        (SILENT, Loss.MUTE, Verdict.WRONG),
        (SILENT, Loss.UNREACHABLE, Verdict.LOST),
        (SILENT, Loss.UNSENT, Verdict.LOST),
        (SILENT, Loss.STAYED, Verdict.LOST),
        (NOBODYS, NODE, Verdict.WRONG),
        (NOBODYS, Loss.SILENCE, Verdict.LOST),
        (BROKEN, NODE, Verdict.WRONG),
        (BROKEN, VIP, Verdict.WRONG),
        (BROKEN, Loss.SILENCE, Verdict.LOST),
    ],
)
def test_what_is_right_depends_on_what_is_expected(
    expected: Expectation, seen: Address | Loss, verdict: Verdict
) -> None:
    one = tally(seen, expected=expected)
    assert verdict_of([one]) is verdict
    counted = (Verdict.RIGHT, Verdict.WRONG, Verdict.LOST)
    assert (one.right, one.wrong, one.lost) == tuple(int(verdict is each) for each in counted)
    assert sentence([one], whose).startswith(f"{verdict}: ")


def test_a_wrong_source_is_told_before_lost_answers_and_both_before_what_is_right() -> None:
    right, wrong, lost = tally(VIP, VIP, VIP), tally(VIP, NODE), tally(Loss.SILENCE, Loss.SILENCE, VIP)
    assert sentence([right, lost, wrong], whose) == (
        "wrong: 1 of 8 were seen as 192.168.0.240 (the node's) instead of 192.168.0.245, the VIP of sip/sip-client: "
        "udp from 10.0.0.1 (sip-client-0) to 192.168.0.250:5060"
    )
    assert sentence([right, lost], whose) == (
        "lost: 2 of 6 had no answer: udp from 10.0.0.1 (sip-client-0) to 192.168.0.250:5060: no answer"
    )
    assert sentence([right], whose) == "right: all 3 as expected: 192.168.0.245, the VIP of sip/sip-client"
    assert counts([right, lost, wrong]) == "5 right, 1 wrong, 2 lost (192.168.0.240: 1)"


def test_nothing_asked_is_nothing_right() -> None:
    for none in ([], [tally()], [tally(VIP), tally()]):
        assert verdict_of(none) is Verdict.LOST
    assert sentence([tally()], whose) == "lost: ended before anything was answered"


def test_of_a_service_of_which_nothing_was_rewritten_nothing_is_proved() -> None:
    spared = tally(NODE, expected=SPARED, protocol="tcp", of=SIP, ports=PORTS)
    for tallies in ([spared], [spared, tally(Loss.REFUSED, expected=SPARED, of=SIP, ports=PORTS)]):
        assert verdict_of(tallies) is Verdict.UNPROVED
        assert sentence(tallies, whose) == (
            "not rewritten: sip/sip-client rewrites only udp:5060-5061, so nothing was proved of its VIP; "
            "ask there: --to 192.168.0.250:5060 --proto udp"
        )
    there = "kvctl egress verify sip/sip-client --to 192.168.0.250:5060 --proto udp"
    assert next_steps([spared]) == [there]
    far = tally(Loss.REFUSED, expected=SPARED, port=9745, of=SIP, ports=PORTS)
    assert next_steps([far]) == [f"on that host, kvctl egress echo --port 5060; then here, {there}"]
    denied = tally(NODE, expected=SPARED, of=SIP)
    assert sentence([denied], whose) == (
        "not rewritten: sip/sip-client does not rewrite what 10.0.0.1 sends to 192.168.0.250:5060, "
        "so nothing was proved of its VIP"
    )
    other = WANTED._replace(service=ServiceRef("sip", "other"))
    assert verdict_of([tally(VIP, expected=other, of=SIP)]) is Verdict.UNPROVED


def test_one_rewritten_protocol_proves_it_and_so_does_what_the_caller_expects() -> None:
    spared = tally(NODE, expected=SPARED, protocol="udp", of=SIP, ports=PORTS)
    assert sentence([spared, tally(VIP, protocol="tcp", of=SIP)], whose) == (
        "right: all 2 as expected: 192.168.0.245, the VIP of sip/sip-client; "
        "not the VIP: sip/sip-client does not rewrite this"
    )
    assert verdict_of([tally(NODE, expected=Expectation(Kind.TOLD, address=NODE), of=SIP)]) is Verdict.RIGHT
    assert verdict_of([tally(VIP, expected=SPARED, of=SIP, ports=PORTS)]) is Verdict.WRONG
    assert verdict_of([tally(NODE, expected=SPARED, ports=PORTS)]) is Verdict.RIGHT


def test_broken_rules_come_before_what_was_seen_and_are_mended_first() -> None:
    assert sentence([tally(NODE, expected=BROKEN)], whose) == (
        "wrong: the rules of sip/sip-client are broken: KVCTL-SVC-A is empty, somebody has flushed it; "
        "1 of 1 were seen as 192.168.0.240 (the node's): udp from 10.0.0.1 (sip-client-0) to 192.168.0.250:5060"
    )
    lost = sentence([tally(Loss.SILENCE, expected=BROKEN)], whose)
    assert lost.startswith("lost: the rules of sip/sip-client are broken: KVCTL-SVC-A is empty")
    assert next_steps([tally(NODE, expected=BROKEN)])[0] == "kvctl egress apply mends it"


def test_news_are_changes_alone() -> None:
    made = tally()
    other = parse_address("192.0.2.1")
    seen = (VIP, VIP, NODE, NODE, other, Loss.SILENCE, Loss.REFUSED, VIP, VIP, NODE)
    assert [made.add(outcome(each)) for each in seen] == [
        False, False, True, False, True, True, False, True, False, True,
    ]  # fmt: skip
    assert made.news(outcome(NODE), whose) == (
        "wrong: seen as 192.168.0.240 (the node's): udp from 10.0.0.1 (sip-client-0) to 192.168.0.250:5060; "
        "expected: 192.168.0.245, the VIP of sip/sip-client"
    )
    assert made.news(outcome(Loss.SILENCE), whose).startswith("lost: udp from 10.0.0.1 ")
    made.add(outcome(Loss.SILENCE))
    made.add(outcome(VIP))
    assert made.news(outcome(VIP), whose).startswith("right again, after 2 that were not: udp from 10.0.0.1 ")


def test_an_echo_that_tells_ever_other_sources_takes_no_memory() -> None:
    made = tally(*(parse_address(f"10.9.{number // 256}.{number % 256}") for number in range(1000)))
    assert made.wrong == 1000
    assert len(made.seen) <= 64
    assert sentence([made], whose).startswith("wrong: 1000 of 1000 were seen as 10.9.")


def test_what_to_do_next_depends_on_what_was_wrong() -> None:
    trace = "kvctl egress trace --from 10.0.0.1 --to 192.168.0.250:5060 --proto udp"
    assert next_steps([tally(VIP)]) == []
    assert next_steps([tally(NODE), tally(NODE)]) == [f"see by which rule: {trace}"]
    assert next_steps([tally(Loss.REFUSED)]) == [
        "nothing listens there: on that host, kvctl egress echo --port 5060"
    ]
    assert next_steps([tally(Loss.SILENCE)])[0].endswith(trace)
    elsewhere = tally(Loss.REFUSED, expected=SPARED, port=9745, ports=PORTS)
    (step,) = next_steps([elsewhere])
    assert step == (
        "nothing listens there: on that host, kvctl egress echo --port 5060, which is rewritten; "
        "then ask --to 192.168.0.250:5060 --proto udp"
    )


def test_ipv6_ends_stand_in_brackets() -> None:
    far = parse_address("2001:db8::1")
    assert str(Asked(far, far, 5060, "tcp", NOBODYS)) == "tcp from 2001:db8::1 to [2001:db8::1]:5060"


def test_where_silence_is_expected_an_answer_of_any_kind_is_told() -> None:
    refused = tally(Loss.REFUSED, Loss.SILENCE, Loss.REFUSED, expected=SILENT)
    assert sentence([refused], whose) == (
        "wrong: 2 of 3 were answered (refused), so they went out unless a REJECT on the way said so: "
        "udp from 10.0.0.1 (sip-client-0) to 192.168.0.250:5060; expected: silence: sip/sip-client wants none of it "
        "where its VIP is not (kvctl.io/without-vip)"
    )
    assert next_steps([refused])[0].startswith("see by which rule: kvctl egress trace ")
    assert refused.news(outcome(Loss.REFUSED), whose).startswith("wrong: udp from 10.0.0.1 ")


def test_silence_that_the_rules_do_not_make_is_not_right() -> None:
    silent = tally(Loss.SILENCE, Loss.SILENCE, expected=SILENT)
    assert sentence([silent], whose).endswith("; silence would be the same if no echo were there")
    heard = tally(VIP)
    assert "silence would" not in sentence([silent, heard], whose)
    silent.let_out()
    assert (silent.right, silent.wrong, verdict_of([silent])) == (0, 2, Verdict.WRONG)
    assert sentence([silent], whose).startswith(
        "wrong: 2 of 2 are let out by the rules here (no answer): udp from 10.0.0.1 "
    )


@pytest.mark.parametrize(
    ("loss", "says", "step"),
    [
        (Loss.UNSENT, "could not be sent by the pod itself", "ss -s (is a port free?)"),
        (Loss.UNREACHABLE, "found no way there", "see whether the pod has a route"),
        (Loss.STAYED, "did not leave the pod, where the destination", "who has put 192.168.0.250 there"),
    ],
)
def test_what_did_not_get_away_sends_nobody_to_the_echo(loss: Loss, says: str, step: str) -> None:
    for expected in (WANTED, SILENT):
        lost = tally(loss, loss, expected=expected)
        assert sentence([lost], whose).startswith(f"lost: 2 of 2 {says}")
        (told,) = next_steps([lost])
        assert step in told
        assert "ip route get 192.168.0.250 from 10.0.0.1" in told
        assert "kvctl egress" not in told
        assert "had no answer" in sentence([lost, tally(Loss.REFUSED, protocol="tcp")], whose)
    partly = tally(Loss.SILENCE, Loss.SILENCE, loss, expected=SILENT)
    assert sentence([partly], whose).startswith(f"lost: 1 of 3 {says}")
    assert step in next_steps([partly])[0]
    mixed = sentence([tally(loss, Loss.REFUSED, loss)], whose)
    assert mixed.endswith(f"192.168.0.250:5060: 2 {loss}, 1 refused")
