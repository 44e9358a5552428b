"""What `kvctl egress watch` refuses before it begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvctl.agent.start import Options
from kvctl.cli import once
from kvctl.cluster.connection import open_connection
from kvctl.errors import ClusterError
from kvctl.model.settings import Settings

_WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")


def watch(
    *arguments: str, before: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command with these arguments, run to its end."""
    return subprocess.run(
        [*before, sys.executable, "-m", "kvctl", "egress", "watch", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A kubeconfig of a server that nobody is to ask."""
    path = tmp_path / "config"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "it"}}],
                "clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:1"}}],
            }
        )
    )
    return str(path)


@pytest.mark.parametrize("how", [(), ("--once",)])
def test_without_the_capability_it_ends_before_it_asks_anybody(how: tuple[str, ...], config: str) -> None:
    done = watch(*how, "--kubeconfig", config, before=_WITHOUT_NET_ADMIN)
    assert (done.returncode, done.stdout) == (4, "")
    first, hint = done.stderr.splitlines()
    assert first == "Error: rules cannot be changed: this process has no CAP_NET_ADMIN"
    assert hint.startswith("Hint: run as root; in a container: ")


@pytest.mark.parametrize("how", [(), ("--once",)])
@pytest.mark.parametrize(
    ("setting", "name"), [("true", "iptables-nft-save"), ("false", "iptables-legacy-save")]
)
def test_without_the_programs_of_the_chosen_back_end_it_ends_with_the_package(
    how: tuple[str, ...], setting: str, name: str, config: str, tmp_path: Path
) -> None:
    # Looked for in sbin directories, too: the namespace of mounts is this process's own, and they are empty there.
    hide = 'mount --bind $0 /usr/sbin; mount --bind $0 /usr/local/sbin; test -L /sbin || mount --bind $0 /sbin; "$@"'
    before = ("unshare", "--mount", "sh", "-ec", hide, str(tmp_path))
    path = {"PATH": "/bin:/usr/bin:" + str(Path(sys.executable).parent), "egress_withnftables": setting}
    done = watch(*how, "--kubeconfig", config, before=before, env=path)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert f"neither {name} nor iptables-save is on this host" in done.stderr
    assert "Hint: install the package iptables" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--once", "--listen", ":9"), "--listen has no effect with --once"),
        (("--once", "--clean"), "--clean has no effect with --once"),
        (("--once", "--readiness-gates"), "--readiness-gates has no effect with --once"),
        (("--once", "--no-events"), "--events has no effect with --once"),
        (("--once", "--log-format", "text"), "--log-format has no effect with --once"),
        (("-o", "json"), "--output has no effect without --once"),
        (("-f", "x.yaml"), "-f: an agent follows a cluster, not files"),
    ],
)
def test_what_would_have_no_effect_is_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    done = watch(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {message}")


def test_what_the_environment_says_for_all_agents_is_no_fault_of_once() -> None:
    done = watch(
        "--once", env={"egress_listen": ":9744", "egress_clean": "true", "KUBECONFIG": "/nowhere/at/all"}
    )
    assert done.returncode == 5
    assert "/nowhere/at/all" in done.stderr
    assert "-f" not in done.stderr


def test_once_does_not_elect_and_does_not_act_as_if_nobody_did() -> None:
    done = watch("--once", env={"svc_election": "true", "KUBECONFIG": "/nowhere/at/all"})
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("Error: --once cannot elect (svc_election is true)")
    assert "kvctl egress diff" in hint


def test_once_says_what_it_waits_for_and_gives_up(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(once, "SYNC_SECONDS", 2.0)
    monkeypatch.setattr(once, "_PATIENCE", 0.2)
    connection = open_connection(kubeconfig=config, context=None)
    told = Options(settings=Settings(this_node="worker", node="worker"), node="worker")
    with pytest.raises(ClusterError, match="did not give a full picture within 2 s: cannot reach") as raised:
        once.once(connection, told, output="table")
    assert raised.value.hint is not None
    assert raised.value.hint.endswith("; nothing was changed")
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(
        "Note: waiting for http://127.0.0.1:1, up to 2 s: cannot reach the API server at "
    )
    assert "connection refused" in said[-1]
