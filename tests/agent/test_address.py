"""Where the agent listens, and how it is named to those who ask."""

from __future__ import annotations

import pytest

from kvctl.agent.address import AgentAddress, Listen, parse_agent, parse_listen
from kvctl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "listen", "shown"),
    [
        (":9744", Listen("", 9744), ":9744"),
        ("0.0.0.0:80", Listen("0.0.0.0", 80), "0.0.0.0:80"),
        (" 127.0.0.1:65535 ", Listen("127.0.0.1", 65535), "127.0.0.1:65535"),
        ("[::1]:9744", Listen("::1", 9744), "[::1]:9744"),
    ],
)
def test_an_address_and_a_port_are_read_and_shown(text: str, listen: Listen, shown: str) -> None:
    assert parse_listen(text) == listen
    assert str(listen) == shown


@pytest.mark.parametrize("text", ["", "  ", "off", "OFF"])
def test_off_and_nothing_are_no_port(text: str) -> None:
    assert parse_listen(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "9744", ":", ":0", ":65536", ":97440000", ":x", ":-1", ":+1", ": 1", ":٣", "localhost:9744",
        "::1:9744", "[127.0.0.1]:9744", "[::1]", "[]:9744", "300.0.0.1:1", "http://:9744", "no",
    ],
)  # fmt: skip
def test_anything_else_is_a_usage_error_that_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text, where="environment variable egress_listen")
    assert caught.value.message.startswith('environment variable egress_listen: "')
    assert "127.0.0.1:9744" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("url", "agent"),
    [
        ("http://192.168.0.240", AgentAddress("192.168.0.240", 9744)),
        ("http://192.168.0.240:80/", AgentAddress("192.168.0.240", 80)),
        ("http://[fd00::240]", AgentAddress("fd00::240", 9744)),
        ("http://[fd00::240]:1", AgentAddress("fd00::240", 1)),
        ("http://worker.example:9744", AgentAddress("worker.example", 9744)),
    ],
)
def test_an_agent_is_named_by_its_url(url: str, agent: AgentAddress) -> None:
    assert parse_agent(url, where="--agent") == agent
    assert parse_agent(str(agent), where="--agent") == agent


@pytest.mark.parametrize(
    "url",
    [
        "", "192.168.0.240", "192.168.0.240:9744", "https://192.168.0.240", "http://", "http://a:x",
        "http://a:65536", "http://[fd00::1", "http://a/wait", "http://a?b", "http://u@a", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_is_no_agent_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"--agent: .* is not the address of an agent"):
        parse_agent(url, where="--agent")
