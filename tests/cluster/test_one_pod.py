"""One Pod, read by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvctl.cluster.one_pod import read_pod
from kvctl.errors import ClusterError, InputError
from kvctl.model.objects import Pod
from tests.apiserver import ApiServer, Body, anything, serving

POD = {
    "metadata": {"namespace": "sip", "name": "sip-client-0"},
    "spec": {"nodeName": "worker"},
    "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00:10::1"}]},
}


def read(server: ApiServer, directory: Path, name: str = "sip-client-0") -> Pod | None:
    config = str(server.kubeconfig(directory / "config"))
    return read_pod(namespace="sip", name=name, kubeconfig=config, context=None)


def test_one_that_is_there_has_its_addresses(tmp_path: Path) -> None:
    with serving() as server:
        server.put("pods", POD)
        found = read(server, tmp_path)
    assert found is not None
    assert [str(address) for address in found.addresses] == ["10.0.0.1", "fd00:10::1"]
    assert found.node == "worker"


def test_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    with serving() as server:
        assert read(server, tmp_path) is None
        assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["..", "A", "a b", "a?x=y", "a/log", ""])
def test_what_is_no_name_is_not_asked_for(tmp_path: Path, name: str) -> None:
    with serving() as server:
        assert read(server, tmp_path, name) is None
        assert server.requests == []


def test_who_may_not_read_it_is_told_so(tmp_path: Path) -> None:
    with serving() as server:
        server.put("pods", POD)
        server.forbid("pods")
        with pytest.raises(ClusterError, match="403 Forbidden"):
            read(server, tmp_path)


def test_one_that_makes_no_sense_is_an_error_that_names_it(tmp_path: Path) -> None:
    odd = {**POD, "status": {"phase": "Running", "podIPs": [{"ip": "nonsense"}]}}
    with serving() as server:
        server.put("pods", odd)
        with pytest.raises(InputError, match="sip-client-0"):
            read(server, tmp_path)


def test_an_answer_that_is_no_object_is_an_error(tmp_path: Path) -> None:
    with serving() as server:
        server.fail(Body(b"[]"), on=anything("pods"))
        with pytest.raises(ClusterError):
            read(server, tmp_path)
