"""Which program is of which back end: by its own word, not by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvctl import proc
from kvctl.errors import NetfilterUnavailableError
from kvctl.model.net import Family
from kvctl.netfilter import binaries
from kvctl.netfilter.binaries import Backend, Role, binary, is_installed, plain_backend

Install = Callable[[str, str], None]

NFT = "iptables v1.8.9 (nf_tables)"
LEGACY = "iptables v1.8.9 (legacy)"
OLD = "iptables v1.6.1"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(name, text)`: a program that prints `text`, in a PATH that has no other."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(proc, "_SBIN", ())
    proc.find.cache_clear()
    binaries.version.cache_clear()

    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{text}'\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)

    yield write
    proc.find.cache_clear()
    binaries.version.cache_clear()


def _name(path: str) -> str:
    return Path(path).name


@pytest.mark.parametrize("role", Role)
def test_the_explicit_name_comes_before_the_plain_one(install: Install, role: Role, family: Family) -> None:
    stem = "iptables" if family is Family.IPV4 else "ip6tables"
    for name, text in ((f"{stem}-nft", NFT), (f"{stem}-legacy", LEGACY), (stem, LEGACY)):
        install(f"{name}{role}", text)
    assert _name(binary(Backend.NFT, family, role)) == f"{stem}-nft{role}"
    assert _name(binary(Backend.LEGACY, family, role)) == f"{stem}-legacy{role}"


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        (NFT, Backend.NFT),
        (LEGACY, Backend.LEGACY),
        (OLD, Backend.LEGACY),
        ("iptables v1.4.21", Backend.LEGACY),
    ],
)
def test_plain_iptables_serves_where_it_is_of_that_back_end(
    install: Install, text: str, fitting: Backend
) -> None:
    install("iptables-save", text)
    assert _name(binary(fitting, Family.IPV4, Role.SAVE)) == "iptables-save"
    assert is_installed(fitting, Family.IPV4)
    assert not is_installed(fitting.other, Family.IPV4)


def test_a_plain_iptables_of_the_other_back_end_is_an_error_that_names_the_setting(install: Install) -> None:
    install("iptables-save", NFT)
    with pytest.raises(NetfilterUnavailableError) as caught:
        binary(Backend.LEGACY, Family.IPV4, Role.SAVE)
    assert "iptables-legacy-save is missing" in caught.value.message
    assert "iptables v1.8.9 (nf_tables)" in caught.value.message
    assert "egress_withnftables=true" in str(caught.value.hint)
    assert caught.value.exit_status == 4

    install("ip6tables-save", OLD)
    with pytest.raises(NetfilterUnavailableError) as caught:
        binary(Backend.NFT, Family.IPV6, Role.SAVE)
    assert "ip6tables-nft-save is missing" in caught.value.message
    assert "egress_withnftables=false" in str(caught.value.hint)


def test_a_name_that_lies_is_an_error(install: Install) -> None:
    install("iptables-legacy-restore", NFT)
    with pytest.raises(NetfilterUnavailableError) as caught:
        binary(Backend.LEGACY, Family.IPV4, Role.RESTORE)
    assert "is not what its name says" in caught.value.message
    assert "iptables-legacy-restore" in caught.value.message
    assert "package" in str(caught.value.hint)
    assert "egress_withnftables=true" in str(caught.value.hint)


def test_nothing_there_is_an_error_that_names_the_package(install: Install) -> None:
    with pytest.raises(NetfilterUnavailableError) as caught:
        binary(Backend.NFT, Family.IPV4, Role.RULE)
    assert "neither iptables-nft nor iptables is on this host" in caught.value.message
    assert "apt-get install iptables" in str(caught.value.hint)
    assert plain_backend() is None
    install("iptables", LEGACY)
    proc.find.cache_clear()
    assert plain_backend() is Backend.LEGACY


@pytest.mark.parametrize("text", ["", "no version at all"])
def test_a_program_that_does_not_tell_its_version_is_an_error(install: Install, text: str) -> None:
    install("iptables-nft", text)
    with pytest.raises(NetfilterUnavailableError, match="--version failed"):
        binary(Backend.NFT, Family.IPV4, Role.RULE)


def test_a_program_that_cannot_run_is_an_error(install: Install, tmp_path: Path) -> None:
    (tmp_path / "iptables-nft").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "iptables-nft").chmod(0o755)
    with pytest.raises(NetfilterUnavailableError, match="cannot run") as caught:
        binary(Backend.NFT, Family.IPV4, Role.RULE)
    assert caught.value.exit_status == 4
