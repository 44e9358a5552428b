"""An API server that speaks the list protocol only and misbehaves by path; and the one that speaks all of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.apiserver import ApiServer, serving

TOKEN = "s3cr3t-t0ken"
LISTS = {
    "/api/v1/services": "ServiceList",
    "/api/v1/pods": "PodList",
    "/api/v1/nodes": "NodeList",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSliceList",
    "/apis/networking.k8s.io/v1/servicecidrs": "ServiceCIDRList",
    "/apis/metallb.io/v1beta1/servicel2statuses": "ServiceL2StatusList",
}
KUBEADM_CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"


@dataclass
class Answer:
    """What the server says instead of what it should."""

    status: int = 200
    body: bytes = b"{}"
    hang: bool = False
    cut: bool = False
    drip: bool = False


@dataclass
class FakeApi:
    """Objects by path, and misbehaviour by path: a list of answers, one a request, then the truth again."""

    port: int = 0
    objects: dict[str, list[Any]] = field(default_factory=lambda: {path: [] for path in LISTS})
    kubeadm: str | None = None
    always: dict[str, Answer] = field(default_factory=dict)
    on_page: Callable[[str, int], Answer | None] = lambda path, page: None
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    kubeconfig: str = ""

    def asked(self, path: str) -> int:
        return sum(urlsplit(request).path == path for request in self.requests)

    def answer(self, target: str) -> Answer:
        parts = urlsplit(target)
        if parts.path in self.always:
            return self.always[parts.path]
        if parts.path == KUBEADM_CONFIG and self.kubeadm is not None:
            return _json({"kind": "ConfigMap", "data": {"ClusterConfiguration": self.kubeadm}})
        if parts.path not in LISTS:
            if parts.path != KUBEADM_CONFIG:
                self.complaints.append(f"no such path: {target}")
            return Answer(404)
        query = {key: values[0] for key, values in parse_qs(parts.query, strict_parsing=True).items()}
        if set(query) - {"limit", "continue"} or not 1 <= int(query.get("limit", "0")) <= 500:
            self.complaints.append(f"bad query: {target}")
            return Answer(400)
        start, limit = int(query.get("continue", "0")), int(query["limit"])
        if (instead := self.on_page(parts.path, start)) is not None:
            return instead
        every = self.objects[parts.path]
        meta: dict[str, Any] = {"resourceVersion": "7"}
        if start + limit < len(every):
            meta["continue"] = str(start + limit)
        return _json({"kind": LISTS[parts.path], "metadata": meta, "items": every[start : start + limit]})


def _json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        api: FakeApi = self.server.api  # type: ignore[attr-defined]
        api.requests.append(self.path)
        if self.headers["Accept"] != "application/json":
            api.complaints.append(f"Accept: {self.headers['Accept']}")
        known = self.headers["Authorization"] == f"Bearer {TOKEN}"
        answer = api.answer(self.path) if known else Answer(401)
        if answer.hang:
            api.released.wait(30)
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body) + (answer.cut or answer.drip)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()
        if answer.drip:
            api.released.wait(30)
        self.close_connection = answer.cut or answer.drip

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


class _Listener(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests want."""


def write_kubeconfig(path: Path, *, server: str, token: str = TOKEN, extra: str = "") -> str:
    path.write_text(
        f"""\
apiVersion: v1
kind: Config
current-context: here
contexts:
- name: here
  context: {{cluster: it, user: me, namespace: sip}}
- name: bare
  context: {{cluster: it, user: me}}
clusters:
- name: it
  cluster:
    server: {server}
users:
- name: me
  user:
    token: {token}
{extra}"""
    )
    return str(path)


@pytest.fixture(autouse=True)
def no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    fake = FakeApi()
    listener = _Listener(("127.0.0.1", 0), _Handler)
    listener.api = fake  # type: ignore[attr-defined]
    fake.port = listener.server_address[1]
    fake.kubeconfig = write_kubeconfig(tmp_path / "config", server=f"http://127.0.0.1:{fake.port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.released.set()
        listener.shutdown()
        listener.server_close()
        thread.join(10)
    assert fake.complaints == []


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server with lists, watches and writes; nothing that it complains about may be sent to it."""
    with serving() as it:
        yield it
