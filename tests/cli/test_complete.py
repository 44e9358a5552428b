"""Values for a half-typed line: from the kernel, files and the cluster; in time, and without a word of complaint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvctl.cli import complete
from kvctl.cli.complete import Line, read_line
from tests.apiserver import Hang, anything, serving
from tests.builders import service
from tests.conftest import MakeLab
from tests.kernel.node import Worker, lab_pod

MANIFEST = """\
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sip-client", "namespace": "sip"}}
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}}
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-0", "namespace": "sip"},
 "spec": {"nodeName": "worker-2"}, "status": {"podIP": "10.0.0.1"}}
"""


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # A test is about what is found; how long this busy machine takes is another's business.
    monkeypatch.setattr(complete, "_SECONDS", 30.0)


def values(kind: str, line: str, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What is printed for the line; it has to be without complaint."""
    complete.complete([kind, "--", *line.split()])
    told = capfd.readouterr()
    assert told.err == ""
    return told.out.split()


def test_a_line_tells_where_values_are() -> None:
    line = "kvctl egress diff -f a -f b --filename=c -n sip --context=x --prune --cluster d/e"
    assert read_line(line.split()) == Line(
        words=("kvctl", "egress", "diff", "d/e"),
        files=("a", "b", "c"),
        namespace="sip",
        context="x",
        asks_cluster=True,
    )
    assert read_line(["kvctl", "egress", "diff", "-f"]).files == ()


def test_files_have_services_namespaces_nodes_and_pods(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.json").write_text(MANIFEST)
    line = f"kvctl egress apply -f {tmp_path}/all.json"
    assert values("services", line, capfd) == ["sip/sip-client"]
    assert values("services", f"{line} -n sip", capfd) == ["sip-client"]
    assert values("services", f"{line} -n other", capfd) == []
    assert values("namespaces", line, capfd) == ["sip"]
    assert values("nodes", line, capfd) == ["worker-1", "worker-2"]
    assert values("addresses", line, capfd) == ["10.0.0.1"]
    assert values("pods", line, capfd) == ["sip/a-0"]
    assert values("services", "kvctl egress apply -f ~/all.json", capfd) == ["sip/sip-client"]


def test_a_cluster_has_services_nodes_and_pods(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        config = server.kubeconfig(tmp_path / "config")
        server.put("services", {"metadata": {"name": "a", "namespace": "sip"}, "spec": {}})
        server.put("nodes", {"metadata": {"name": "worker-1"}})
        server.put("pods", {"metadata": {"name": "a-0", "namespace": "sip"}, "spec": {}})
        line = f"kvctl egress diff --kubeconfig {config}"
        assert values("services", line, capfd) == ["sip/a"]
        assert values("services", f"kvctl egress show --kubeconfig {config}", capfd) == ["sip/a"]
        assert values("nodes", line, capfd) == ["worker-1"]
        assert values("pods", line, capfd) == ["sip/a-0"]
        server.forbid("services")
        assert values("services", line, capfd) == []


def test_a_kubeconfig_has_contexts_those_that_are_plain_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["admin@host:6443", "arn:aws:eks:eu-1:12:cluster/a", "$(touch x)", "a b", "-o", "x\ny", "", 7]
    (tmp_path / "config").write_text(json.dumps({"contexts": [{"name": name} for name in names]}))
    expected = ["admin@host:6443", "arn:aws:eks:eu-1:12:cluster/a"]
    assert values("contexts", f"kvctl egress diff --kubeconfig {tmp_path}/config", capfd) == expected
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert values("contexts", "kvctl egress diff", capfd) == expected


def test_the_kernel_has_services_and_the_addresses_of_their_pods(
    make_lab: MakeLab, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(make_lab(backend="nft"))
    worker.apply(service(), lab_pod(app="sip-client"))
    capfd.readouterr()
    with worker.lab[worker.name].entered():
        assert values("services", "kvctl egress show", capfd) == ["sip/sip-client"]
        assert values("services", "kvctl egress flush -n sip", capfd) == ["sip-client"]
        assert values("services", "kvctl egress verify", capfd) == ["sip/sip-client"]
        assert values("namespaces", "kvctl egress flush", capfd) == ["sip"]
        assert values("addresses", "kvctl egress trace", capfd) == ["10.0.0.1"]
        assert values("pods", "kvctl egress trace", capfd) == ["sip/sip-client-0"]


@pytest.mark.parametrize(
    "kind", ["services", "nodes", "contexts", "namespaces", "addresses", "pods", "nonsense"]
)
def test_what_cannot_be_had_is_passed_over_in_silence(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert values(kind, "kvctl egress diff -f /nonexistent --kubeconfig /nonexistent", capfd) == []


def test_a_server_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complete, "_SECONDS", 0.5)
    with serving() as server:
        config = server.kubeconfig(tmp_path / "config")
        server.fail(Hang(), on=anything("services"), times=None)
        began = time.monotonic()
        assert values("services", f"kvctl egress diff --kubeconfig {config}", capfd) == []
        assert time.monotonic() - began < 5
        server.mend()


def test_no_more_is_imported_than_a_value_takes() -> None:
    code = (
        "import runpy, sys; sys.argv = ['kvctl', 'complete', 'contexts', '--', 'kvctl']\n"
        "runpy.run_module('kvctl', run_name='__main__')\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "KUBECONFIG": "/nonexistent"},
    )
    heavy = ("click", "kubernetes", "rich", "kvctl.policy", "kvctl.netfilter", "kvctl.agent")
    assert [name for name in done.stdout.split() if name.startswith(heavy)] == []


@pytest.mark.parametrize("arguments", [[], ["services"], ["nonsense", "--", "kvctl"]])
def test_to_what_cannot_be_understood_nothing_is_said(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvctl", "complete", *arguments], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nor_where_nobody_listens(tmp_path: Path) -> None:
    (tmp_path / "manifest").write_text(MANIFEST)
    line = f"kvctl egress apply -f {tmp_path / 'manifest'}"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m kvctl complete services -- {line} >&-', sys.executable],
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_installed_command_completes_as_python_m_kvctl_does(tmp_path: Path) -> None:
    source = tmp_path / "all.json"
    source.write_text(MANIFEST)
    installed = Path(sys.executable).with_name("kvctl")
    for command in ([str(installed)], [sys.executable, "-m", "kvctl"]):
        argv = [*command, "complete", "services", "--", "kvctl", "egress", "show", "-f", str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["sip/sip-client"], "")
