"""Which back end holds this host's rules, when nobody says."""

from __future__ import annotations

import pytest

from kvctl.errors import KvctlError, NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.netfilter import choice as choice_module
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.choice import choose_backend
from kvctl.netfilter.kernel import Reading
from kvctl.netfilter.savetext import SavedTables, parse_tables

NOTHING = ""
HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
CANARY = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
OURS = "*nat\n:KVCTL-EGRESS - [0:0]\nCOMMIT\n"
THEIRS = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n"
POLICIES = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "binary", lambda *arguments: "/sbin/iptables")
    monkeypatch.setattr(choice_module, "plain_backend", lambda: Backend.LEGACY)


def _reading(
    nft: str = NOTHING, legacy: str = NOTHING, nft6: str = NOTHING, legacy6: str = NOTHING
) -> Reading:
    texts = {
        (Backend.NFT, Family.IPV4): nft,
        (Backend.NFT, Family.IPV6): nft6,
        (Backend.LEGACY, Family.IPV4): legacy,
        (Backend.LEGACY, Family.IPV6): legacy6,
    }
    return Reading(tables={key: parse_tables(text) for key, text in texts.items()}, failed={})


@pytest.mark.parametrize(
    ("reading", "chosen"),
    [
        (_reading(), Backend.LEGACY),
        (_reading(nft=HINT), Backend.NFT),
        (_reading(nft6=CANARY), Backend.NFT),
        (_reading(legacy=CANARY, nft=OURS + THEIRS), Backend.LEGACY),
        (_reading(legacy6=HINT, nft=THEIRS), Backend.LEGACY),
        (_reading(nft=CANARY, legacy=CANARY), Backend.NFT),
        (_reading(nft=OURS, legacy=THEIRS), Backend.NFT),
        (_reading(nft6=OURS, legacy=THEIRS, legacy6=THEIRS), Backend.NFT),
        (_reading(legacy=OURS, nft=THEIRS), Backend.LEGACY),
        (_reading(nft=OURS, legacy=OURS), Backend.LEGACY),
        (_reading(nft=THEIRS, legacy=POLICIES), Backend.NFT),
        (_reading(nft6=THEIRS), Backend.NFT),
        (_reading(legacy=THEIRS, nft=POLICIES), Backend.LEGACY),
        (_reading(nft=THEIRS, legacy=THEIRS), Backend.LEGACY),
    ],
)
def test_the_best_evidence_wins(reading: Reading, chosen: Backend) -> None:
    assert choose_backend(reading, told=None).backend is chosen


@pytest.mark.parametrize("told", [True, False])
def test_what_is_told_wins_over_all_evidence(told: bool) -> None:
    found = choose_backend(_reading(nft=HINT + OURS, legacy=HINT + OURS), told=told)
    assert found.backend is (Backend.NFT if told else Backend.LEGACY)
    assert found.why == "as told"


def test_without_a_plain_iptables_the_one_that_can_be_read_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "plain_backend", lambda: None)
    reading = Reading(tables={(Backend.LEGACY, Family.IPV4): SavedTables()}, failed={})
    assert choose_backend(reading, told=None).backend is Backend.LEGACY


def test_what_cannot_be_read_is_raised_where_it_is_the_chosen_one() -> None:
    refused: KvctlError = NetfilterUnavailableError("no nft here")
    reading = Reading(tables={}, failed={(Backend.NFT, family): refused for family in Family})
    with pytest.raises(NetfilterUnavailableError, match="no nft here"):
        choose_backend(reading, told=True)
    assert choose_backend(reading, told=False).backend is Backend.LEGACY


def test_a_host_with_nothing_gets_the_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "plain_backend", lambda: None)
    refused: KvctlError = NetfilterUnavailableError("nothing here", hint="install something")
    reading = Reading(tables={}, failed={(Backend.NFT, Family.IPV4): refused})
    with pytest.raises(NetfilterUnavailableError, match="nothing here"):
        choose_backend(reading, told=None)
    with pytest.raises(NetfilterUnavailableError, match="no iptables"):
        choose_backend(Reading(tables={}, failed={}), told=None)
