"""How flags and environment become settings."""

from __future__ import annotations

import os

import pytest

from kvctl.cli.settings import electing, read_settings, this_node, told_backend, told_keep_connections
from kvctl.election.terms import Terms
from kvctl.errors import UsageError
from kvctl.model.policy import WithoutVip
from kvctl.model.settings import Settings
from kvctl.model.way import MarkSpace
from kvctl.netfilter import fence
from tests.builders import networks

NO_NETWORKS: dict[str, tuple[str, ...]] = {
    "pod_cidrs": (),
    "service_cidrs": (),
    "exclude_cidrs": (),
    "vip_ranges": (),
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("egress_", "vip_")) or name == "NODE_NAME":
            monkeypatch.delenv(name)


def made(
    *,
    node: str | None = None,
    only_here: bool = False,
    interface: str | None = None,
    without_vip: str | None = None,
) -> Settings:
    return read_settings(
        NO_NETWORKS, node=node, only_here=only_here, interface=interface, without_vip=without_vip
    )


@pytest.mark.parametrize("text", ["true", "TRUE", "True", "1", "t", "T", " true "])
def test_yes_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("egress_withnftables", text)
    assert told_backend(None) is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "f", "F"])
def test_no_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("egress_withnftables", text)
    assert told_backend(None) is False


@pytest.mark.parametrize("text", [None, "", "  "])
def test_absent_or_empty_says_nothing(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    if text is not None:
        monkeypatch.setenv("egress_withnftables", text)
    assert told_backend(None) is None


@pytest.mark.parametrize("text", ["yes", "on", "2", "nft", "truee", "ｔｒｕｅ"])
def test_anything_else_is_wrong_usage_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("egress_withnftables", text)
    with pytest.raises(UsageError, match="environment variable egress_withnftables: ") as raised:
        told_backend(None)
    assert raised.value.hint == ("set egress_withnftables=true, egress_withnftables=false, or unset it")
    assert raised.value.message.isascii()


def test_a_flag_beats_even_a_faulty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("egress_withnftables", "nonsense")
    assert told_backend(True) is True
    assert told_backend(False) is False


def test_connections_are_kept_by_flag_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told_keep_connections(None) is False
    monkeypatch.setenv("egress_keepconnections", "1")
    assert told_keep_connections(None) is True


def test_the_node_is_the_flag_then_node_name_then_kube_vips_then_the_host_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert this_node(None) == os.uname().nodename.lower()
    monkeypatch.setenv("vip_nodename", "from-kube-vip")
    assert this_node(None) == "from-kube-vip"
    monkeypatch.setenv("NODE_NAME", "")
    assert this_node(None) == "from-kube-vip"
    monkeypatch.setenv("NODE_NAME", "from-pod")
    assert this_node(None) == "from-pod"
    assert this_node("from-flag") == "from-flag"


def test_this_node_limits_pods_where_the_command_is_about_this_node() -> None:
    here = os.uname().nodename.lower()
    assert (made().node, made().this_node) == (None, here)
    assert made(only_here=True).node == here
    assert made(node="other").node == "other"


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("egress_podcidr", "pod_cidrs"),
        ("egress_servicecidr", "service_cidrs"),
        ("egress_excludecidrs", "exclude_cidrs"),
        ("egress_vipranges", "vip_ranges"),
    ],
)
def test_each_network_setting_is_a_comma_separated_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str
) -> None:
    monkeypatch.setenv(variable, "10.1.0.0/16, fd00::/64 ,10.1.0.0/16,")
    assert getattr(made(), field) == networks("10.1.0.0/16", "fd00::/64")


def test_every_address_may_be_a_vip_but_never_an_excluded_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("egress_vipranges", "0.0.0.0/0")
    assert made().vip_ranges == networks("0.0.0.0/0")
    monkeypatch.setenv("egress_excludecidrs", "::/0")
    with pytest.raises(UsageError, match="nothing would ever be rewritten"):
        made()


def test_marks_tables_and_priorities_are_numbers_as_people_write_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert made().space == MarkSpace()
    monkeypatch.setenv("egress_fwmark_mask", "0xff0")
    monkeypatch.setenv("egress_route_table", "9000")
    monkeypatch.setenv("egress_rule_priority", "900")
    assert made().space == MarkSpace(0xFF0, 9000, 900)
    for text in ("", "0x", "-1", "0xfffffffff", "many"):
        monkeypatch.setenv("egress_fwmark_mask", text)
        if text:
            with pytest.raises(UsageError, match="egress_fwmark_mask"):
                made()
        else:
            assert made().space.mask == 0x3C


def test_nodes_are_excluded_unless_the_variable_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made().exclude_nodes is True
    monkeypatch.setenv("egress_excludenodes", "true")
    assert made().exclude_nodes is True
    monkeypatch.setenv("egress_excludenodes", "0")
    assert made().exclude_nodes is False


def test_the_vip_is_assumed_only_where_somebody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made().assume_vip is False
    monkeypatch.setenv("egress_assumevip", "true")
    assert made().assume_vip is True


def test_without_the_vip_the_flag_counts_then_the_variable_then_the_nodes_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert made().without_vip is WithoutVip.NODE_ADDRESS
    monkeypatch.setenv("egress_withoutvip", "drop")
    assert made().without_vip is WithoutVip.DROP
    assert made(without_vip="node-address").without_vip is WithoutVip.NODE_ADDRESS
    monkeypatch.setenv("egress_withoutvip", "")
    assert made().without_vip is WithoutVip.NODE_ADDRESS
    monkeypatch.setenv("egress_withoutvip", "Drop")
    with pytest.raises(UsageError, match=r"egress_withoutvip: .* is neither node-address nor drop"):
        made()


@pytest.mark.parametrize(("obstacle", "seconds"), [(None, 10), ("no list can be written", None)])
def test_who_elects_fences_its_rules_for_the_renew_deadline_if_it_can(
    obstacle: str | None, seconds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "obstacle", lambda: obstacle)
    assert electing(Settings(), None) == Settings()
    assert electing(Settings(), Terms()) == Settings(elects=True, fence_seconds=seconds)
