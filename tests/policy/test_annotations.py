"""What a tenant may write into an annotation, and what each faulty value is answered."""

from __future__ import annotations

import pytest

from kvctl.model.net import parse_address
from kvctl.model.policy import PortMatch, WithoutVip
from kvctl.policy.annotations import (
    ADDRESSES,
    ALLOWED,
    DENIED,
    EGRESS,
    GATEWAY,
    IGNORE,
    INTERFACE,
    IPV6,
    KVCTL_EGRESS,
    LEASE,
    MAX_UNKNOWN,
    PORTS,
    WITHOUT_EFFECT,
    WITHOUT_VIP,
    Annotations,
    Problem,
    misspelt_switch,
    read_annotations,
)
from tests.builders import networks


def read(**values: str) -> Annotations:
    """By the name of the constant: `read(PORTS="udp:5060")`."""
    return read_annotations({globals()[name]: value for name, value in values.items()})


def only_problem(annotation: str, value: str) -> Problem:
    found = read_annotations({EGRESS: "true", annotation: value})
    (problem,) = found.problems
    assert problem.annotation == annotation
    return problem


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ("udp:5060", ["udp:5060"]),
        ("tcp:8080,udp:5060", ["tcp:8080", "udp:5060"]),
        ("udp:5060,tcp:8080", ["tcp:8080", "udp:5060"]),
        ("tcp:8000-8100", ["tcp:8000-8100"]),
        ("sctp:1,sctp:65535", ["sctp:1", "sctp:65535"]),
        (" tcp:80 ,\tudp:53 ", ["tcp:80", "udp:53"]),
        ("tcp:80,tcp:80", ["tcp:80"]),
        ("tcp:80,tcp:79-81,udp:80", ["tcp:79-81", "udp:80"]),
        ("tcp:1-65535", ["tcp:1-65535"]),
        ("tcp:7-7", ["tcp:7"]),
        ("", []),
    ],
)
def test_ports_are_read_sorted_and_without_duplicates(value: str, ports: list[str]) -> None:
    found = read(PORTS=value)
    assert found.problems == ()
    assert [str(port) for port in found.ports] == ports


def test_no_port_annotation_means_all_traffic() -> None:
    assert read(EGRESS="true").ports == ()


@pytest.mark.parametrize(
    "value",
    [
        "tcp:80 -j ACCEPT",
        "udp:0",
        "tcp:99999",
        "tcp:65536",
        "icmp:1",
        "tcp:",
        "tcp",
        ":80",
        "tcp:80-",
        "tcp:-80",
        "tcp:0-80",
        "tcp:80-65536",
        "tcp:+80",
        "tcp: 80",
        "tcp:80:90",
        "tcp:80;udp:81",
        "tcp:٨٠",
        "tcp:８０",
        "tcp:80\n",
        "\ntcp:80",
        "tcp:80\0",
        "tcp:80\x1b[31m",
        "tcp:http",
        "all:80",
        "tcp:1e3",
        "0x50",
        "0",
        "99999",
    ],
)
def test_a_faulty_port_is_answered_with_the_value_and_what_is_accepted(value: str) -> None:
    problem = only_problem(PORTS, value)
    assert problem.value == value.strip(" \t")
    assert problem.why == (
        "is not PROTOCOL:PORT or PROTOCOL:FIRST-LAST with tcp, udp or sctp and ports 1 to 65535"
    )
    assert problem.hint is None
    assert str(problem).isascii()
    assert str(problem).isprintable()


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("5060", "write tcp:5060"),
        ("8000-8100", "write tcp:8000-8100"),
        ("8100-8000", "write tcp:8000-8100"),
        ("tcp:8100-8000", "write tcp:8000-8100"),
        ("TCP:80", "write tcp:80"),
        ("UDP:90-80", "write udp:80-90"),
    ],
)
def test_a_port_that_is_nearly_right_gets_a_hint_that_would_be_accepted(value: str, hint: str) -> None:
    assert only_problem(PORTS, value).hint == hint
    assert read(PORTS=hint.removeprefix("write ")).problems == ()


@pytest.mark.parametrize("value", ["ICMP:80", "TCP:0", "TCP:80 -j DROP", "K:80"])
def test_no_hint_leads_to_the_next_error(value: str) -> None:
    assert only_problem(PORTS, value).hint is None


def test_each_faulty_entry_is_a_problem_of_its_own_and_the_good_ones_are_read() -> None:
    found = read(PORTS="udp:0, tcp:80, icmp:1")
    assert [problem.value for problem in found.problems] == ["udp:0", "icmp:1"]
    assert found.ports == (PortMatch("tcp", 80, 80),)


def test_an_empty_entry_between_commas_is_a_problem() -> None:
    assert only_problem(PORTS, "tcp:80,,udp:5060").value == ""


@pytest.mark.parametrize(
    ("annotation", "entries", "most"),
    [
        (PORTS, [f"tcp:{n}" for n in range(1, 66)], 64),
        (ALLOWED, [f"10.1.{n // 256}.{n % 256}/32" for n in range(257)], 256),
        (DENIED, [f"2001:db8::{n:x}/128" for n in range(257)], 256),
    ],
)
def test_one_entry_too_many_is_refused_and_the_last_accepted_number_is_read(
    annotation: str, entries: list[str], most: int
) -> None:
    assert f"has {most + 1} entries: at most {most} " in only_problem(annotation, ",".join(entries)).why
    full = read_annotations({annotation: ",".join(entries[:most])})
    assert full.problems == ()
    assert len(full.ports) + len(full.allowed or ()) + len(full.denied) == most


def test_duplicates_do_not_count_towards_the_limit() -> None:
    assert read(PORTS=",".join(["tcp:80"] * 500)).problems == ()


@pytest.mark.parametrize("annotation", [PORTS, ALLOWED, DENIED, ADDRESSES])
def test_a_megabyte_of_commas_is_one_short_problem(annotation: str) -> None:
    problem = only_problem(annotation, "," * 1_000_000)
    assert "has 1000000 characters" in problem.why
    assert len(str(problem)) < 300


def test_256_long_ipv6_networks_with_blanks_fit_into_the_accepted_length() -> None:
    entries = [f"2001:0db8:1111:2222:3333:4444:5555:{n:04x}/128" for n in range(256)]
    assert read(ALLOWED=", ".join(entries)).problems == ()


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("10.0.0.0/33", None),
        ("10.0.0.0/-1", None),
        ("10.0.0.0/", None),
        ("10.0.0/8", None),
        ("10.0.0.0/255.0.0.0", None),
        ("10.0.0.5/24", "write 10.0.0.0/24"),
        ("2001:db8::5/64", "write 2001:db8::/64"),
        ("10.0.0.0/٨", None),
        ("١٠.0.0.0/8", None),
        ("010.0.0.0/8", None),
        ("fe80::1%eth0", None),
        ("10.0.0.0/8\n", None),
        ("10.0.0.0/8\0", None),
        ("10.0.0.0/8 -j ACCEPT", None),
        ("10.0.0.0/" + "9" * 6000, None),
        ("example.com", None),
        ("\x1b]0;x\x07", None),
    ],
)
@pytest.mark.parametrize("annotation", [ALLOWED, DENIED])
def test_a_faulty_network_is_answered_with_the_form_that_is_accepted(
    annotation: str, value: str, hint: str | None
) -> None:
    problem = only_problem(annotation, value)
    assert problem.why == "is not a network such as 192.168.0.0/24 or 2001:db8::/64"
    assert problem.hint == hint
    assert len(str(problem)) < 250
    assert str(problem).isascii()
    assert str(problem).isprintable()


def test_networks_are_sorted_and_those_inside_others_left_out() -> None:
    found = read(ALLOWED="2001:db8::/32, 192.168.0.0/24,10.0.0.0/8,10.2.0.0/16,192.168.0.7")
    assert found.allowed == networks("10.0.0.0/8", "192.168.0.0/24", "2001:db8::/32")


def test_no_allowed_networks_is_something_else_than_only_faulty_ones() -> None:
    assert read(EGRESS="true").allowed is None
    assert read(ALLOWED="").allowed is None
    assert read(ALLOWED="nonsense").allowed == ()


@pytest.mark.parametrize("name", [EGRESS, KVCTL_EGRESS, IPV6, IGNORE])
@pytest.mark.parametrize("value", ["", "True", "yes", "1", "true ", "true\n", "\x1b[1mtrue"])
def test_a_switch_is_exactly_true_or_false(name: str, value: str) -> None:
    found = read_annotations({name: value})
    assert [problem.annotation for problem in found.problems] == [name]
    assert found.problems[0].why == 'is neither "true" nor "false"'


@pytest.mark.parametrize(
    ("shared", "own", "asks"),
    [
        (None, None, False),
        ("true", None, True),
        ("false", None, False),
        (None, "true", True),
        ("false", "true", True),
        ("true", "false", False),
        ("yes", None, True),
        (None, "yes", True),
        ("true", "yes", True),
        ("false", "yes", True),
        ("yes", "false", False),
        ("yes", "true", True),
    ],
)
def test_kvctls_own_switch_decides_and_a_faulty_one_may_mean_yes(
    shared: str | None, own: str | None, asks: bool
) -> None:
    given = {EGRESS: shared, KVCTL_EGRESS: own}
    found = read_annotations({name: value for name, value in given.items() if value is not None})
    assert found.asks is asks
    assert len(found.problems) == [shared, own].count("yes")


@pytest.mark.parametrize("value", ["eth1", "bond0.100", "wg-vip", "veth@if2", "a" * 15])
def test_the_service_interface_is_a_name_that_the_kernel_could_have(value: str) -> None:
    assert read(INTERFACE=value).interface == value


@pytest.mark.parametrize(
    "value", ["a" * 16, "eth 1", "../x", "eth1\n", ".", "..", "éth", "e;reboot", "eth1/0"]
)
def test_anything_else_is_no_interface(value: str) -> None:
    problem = only_problem(INTERFACE, value)
    assert "is not the name of a network interface" in problem.why


@pytest.mark.parametrize("value", list(WithoutVip))
def test_what_happens_without_the_vip_is_one_of_two_words(value: str) -> None:
    found = read(EGRESS="true", WITHOUT_VIP=value)
    assert (found.without_vip, found.problems, found.warnings) == (WithoutVip(value), (), ())


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("Drop", 'write "drop"'),
        (" drop", 'write "drop"'),
        ("node_address", 'write "node-address"'),
        ("", None),
        ("leak", None),
        ("drop,node-address", None),
    ],
)
def test_any_other_word_is_a_problem(value: str, hint: str | None) -> None:
    problem = only_problem(WITHOUT_VIP, value)
    assert problem.why == 'is neither "node-address" nor "drop"'
    assert problem.hint == hint
    assert read(EGRESS="true", WITHOUT_VIP=value).without_vip is None


def test_addresses_keep_their_order() -> None:
    found = read(ADDRESSES="192.168.0.9, 192.168.0.1,fd00::1,192.168.0.9")
    assert [str(address) for address in found.addresses] == ["192.168.0.9", "192.168.0.1", "fd00::1"]


@pytest.mark.parametrize(
    "value", ["192.168.0.256", "192.168.0.1/32", "vip.example.com", "fe80::1%eth0", "::g"]
)
def test_what_is_no_address_is_a_problem(value: str) -> None:
    assert only_problem(ADDRESSES, value).why == "is not an IP address"


@pytest.mark.parametrize("name", list(WITHOUT_EFFECT))
def test_each_other_egress_annotation_of_kube_vip_gets_a_warning(name: str) -> None:
    found = read_annotations({EGRESS: "true", name: "true"})
    (warning,) = found.warnings
    assert warning.startswith(f"{name} has no effect here: ")
    assert found.problems == ()


@pytest.mark.parametrize(
    "name", ["kube-vip.io/egress-source-port", "kvctl.io/Egress", "kube-vip.io/egress\x1b[1m"]
)
def test_a_name_with_a_typing_error_is_not_passed_over_in_silence(name: str) -> None:
    (warning,) = read_annotations({EGRESS: "true", name: "udp:5060"}).warnings
    assert "has no effect here" in warning
    assert warning.isascii()
    assert warning.isprintable()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("kube-vip.io/egress-destination-port", PORTS),
        ("kube-vip.io/egress-allowed-network", ALLOWED),
        ("kube-vip.io/egress-Denied-networks", DENIED),
        ("kvctl.io/without-vips", WITHOUT_VIP),
    ],
)
def test_a_misspelt_name_that_would_narrow_is_a_problem_lest_too_much_is_rewritten(
    name: str, meant: str
) -> None:
    found = read_annotations({EGRESS: "true", name: "x"})
    (problem,) = found.problems
    assert str(problem) == f'{meant} "x" is misspelt: "{name}" is not read'
    assert problem.hint == f"write {meant}"
    assert found.faulty(meant)
    assert found.warnings == ()


def test_a_misspelt_name_beside_the_right_one_is_only_a_warning() -> None:
    found = read_annotations({EGRESS: "true", PORTS: "udp:5060", "kube-vip.io/egress-destination-port": "x"})
    assert found.problems == ()
    (warning,) = found.warnings
    assert warning.endswith(f"has no effect here: did you mean {PORTS}?")


@pytest.mark.parametrize("name", ["kube-vip.io/egres", "kubevip.io/egress", "kvctl.io/Egress"])
def test_a_misspelt_switch_is_found_where_there_is_no_other(name: str) -> None:
    sentence = misspelt_switch({"a/b": "", name: "true"})
    assert sentence is not None
    assert sentence.startswith(f'the annotation "{name}" has no effect here: did you mean ')
    assert misspelt_switch({name: "true", EGRESS: "false"}) is None


@pytest.mark.parametrize("name", ["kube-vip.io/egress-ipv6", "example.org/egress", "kube-vip.io/ignore"])
def test_what_is_not_near_the_switch_is_no_switch_that_was_misspelt(name: str) -> None:
    assert misspelt_switch({name: "true"}) is None


def test_many_unknown_names_are_counted_not_listed() -> None:
    found = read_annotations({f"kvctl.io/{n}": "" for n in range(1000)})
    assert len(found.warnings) == MAX_UNKNOWN + 1
    assert found.warnings[-1] == f"{1000 - MAX_UNKNOWN} more annotations have no effect here"


def test_annotations_of_kube_vip_that_are_not_about_egress_are_none_of_our_business() -> None:
    assert read_annotations({"kube-vip.io/vipHost": "worker", "kube-vip.io/leaseName": "x"}).warnings == ()


def test_every_problem_of_a_service_comes_at_once() -> None:
    found = read(
        EGRESS="yes",
        PORTS="5060",
        ALLOWED="x",
        DENIED="y",
        ADDRESSES="z",
        INTERFACE="a b",
        IPV6="maybe",
        IGNORE="perhaps",
    )
    assert {problem.annotation for problem in found.problems} == {
        EGRESS,
        PORTS,
        ALLOWED,
        DENIED,
        ADDRESSES,
        INTERFACE,
        IPV6,
        IGNORE,
    }


def test_the_lease_is_a_name_without_a_namespace() -> None:
    assert read(EGRESS="true", LEASE="sip-lease.a").lease == "sip-lease.a"
    assert read(EGRESS="true").lease is None
    for value in ("a/b", "A", "-a", "a" * 254, "a b"):
        assert "is not the name of a Lease" in only_problem(LEASE, value).why


def test_gateways_are_addresses_one_a_family() -> None:
    found = read(EGRESS="true", GATEWAY="192.168.0.1, fd00::1")
    assert found.gateways == (parse_address("192.168.0.1"), parse_address("fd00::1"))
    assert found.problems == ()
    assert found.warnings == ()
    assert only_problem(GATEWAY, "192.168.0.1,192.168.0.2").why.startswith("has two addresses of one family")
    for value in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "::"):
        assert only_problem(GATEWAY, value).why == "is not the address of a next hop"
    assert only_problem(GATEWAY, "192.168.0.0/24").why == "is not an IP address"
