"""What --help and the lab say of what there is, and of nothing that there is not."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from kvctl.cli.main import kvctl
from kvctl.lab import playground, userns
from kvctl.lab.topology import standard
from reference.commands import pages

PAGES = {page.path: page for page in pages()}


def told(*words: str) -> str:
    """What --help says, on one line."""
    return " ".join(CliRunner().invoke(kvctl, [*words, "--help"]).output.split())


@pytest.mark.parametrize("path", [path for path in PAGES if path[:1] == ("egress",) and len(path) == 2])
def test_options_speak_only_of_options_that_the_command_has(path: tuple[str, ...]) -> None:
    flags = {flag for option in PAGES[path].options for flag in option.flags}
    if "--with-vip" not in flags:
        assert all("--with-vip" not in option.text for option in PAGES[path].options)


def test_the_help_of_the_group_says_where_the_vip_may_stand() -> None:
    text = told("egress")
    for place in ("status.loadBalancer", "kube-vip.io/loadbalancerIPs", "spec.loadBalancerIP", "--vip-range"):
        assert place in text


def test_the_help_of_compute_says_how_the_rules_are_seen() -> None:
    assert "The rules themselves are printed by -o iptables" in told("egress", "compute")


def test_the_help_of_verify_says_how_a_watch_ends() -> None:
    assert "Ctrl-C is how --watch is meant to end: it ends with one of these, too." in told(
        "egress", "verify"
    )


def test_a_lab_that_is_up_names_all_its_places_and_what_to_do_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "up", lambda *, backend: True)
    monkeypatch.setattr(playground, "default_backend", lambda: "nft")
    monkeypatch.setattr(userns, "needed", lambda: False)
    done = CliRunner().invoke(kvctl, ["lab", "up"])
    assert done.exit_code == 0
    places = done.output.partition("kvctl lab exec ")[2].partition(" ")[0]
    assert set(places.split("|")) == set(standard().names)
    assert "kvctl lab exec worker -- kvctl egress apply -f sip.yaml" in done.output


def test_no_page_says_that_building_a_lab_writes_rules() -> None:
    assert isinstance(kvctl, click.Group)
    (up,) = [each for each in PAGES["lab",].examples if each.line == "kvctl lab up"]
    assert up.does == "Build a lab; it has no rules yet"
