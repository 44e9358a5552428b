"""`kvctl egress compute`: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvctl.cli.main import main

ITEM_KEYS = [
    "namespace",
    "service",
    "family",
    "vip",
    "interface",
    "pods",
    "ports",
    "allowedNetworks",
    "deniedNetworks",
    "excludedNetworks",
    "status",
    "reason",
    "warnings",
    "connections",
]
ENVIRONMENT = (
    "egress_podcidr",
    "egress_servicecidr",
    "egress_excludecidrs",
    "egress_excludenodes",
    "egress_vipranges",
    "egress_withnftables",
    "egress_assumevip",
    "NODE_NAME",
    "vip_nodename",
    "vip_servicesinterface",
    "vip_interface",
    "KUBECONFIG",
)


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def items(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document["items"]
        return found


Compute = Callable[..., Done]


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Compute:
    """`compute(*arguments, objects=[...])`: the command in this process, on a file with these objects."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str, objects: list[dict[str, Any]] | None = None) -> Done:
        source: list[str] = []
        if objects is not None:
            path = tmp_path / "objects.json"
            path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}))
            source = ["-f", str(path)]
        monkeypatch.setattr("sys.argv", ["kvctl", "egress", "compute", *source, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, *capsys.readouterr())

    return run


def service(
    name: str = "sip-client",
    *,
    namespace: str = "sip",
    vip: str | None = "192.168.0.245",
    spec: dict[str, Any] | None = None,
    **annotations: str,
) -> dict[str, Any]:
    """A manifest; annotations by the end of their name (`destination_ports`)."""
    written = {f"kube-vip.io/egress-{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"kube-vip.io/egress": "true", **written},
        },
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"app": name},
            **(spec or {}),
        },
        "status": {"loadBalancer": {"ingress": [{"ip": vip}] if vip else []}},
    }


def pod(
    name: str = "sip-client-0", ip: str = "10.0.0.1", *, node: str = "worker", namespace: str = "sip"
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name.rpartition("-")[0]}},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


GOOD = [service(destination_ports="udp:5060"), pod()]


def test_the_json_is_exactly_the_contracts(compute: Compute) -> None:
    done = compute("-o", "json", objects=GOOD)
    assert (done.status, done.err) == (0, "")
    assert done.document == {
        "schemaVersion": 1,
        "backend": None,
        "node": None,
        "items": [
            {
                "namespace": "sip",
                "service": "sip-client",
                "family": "ipv4",
                "vip": "192.168.0.245",
                "interface": None,
                "pods": [{"name": "sip-client-0", "ip": "10.0.0.1", "node": "worker"}],
                "ports": ["udp:5060"],
                "allowedNetworks": [],
                "deniedNetworks": [],
                "excludedNetworks": ["10.0.0.0/16", "10.96.0.0/12", "169.254.0.0/16", "224.0.0.0/4"],
                "status": "wanted",
                "reason": None,
                "warnings": [],
                "connections": None,
            }
        ],
    }
    assert list(done.items[0]) == ITEM_KEYS


def test_the_yaml_says_the_same(compute: Compute) -> None:
    as_json = compute("-o", "json", objects=GOOD)
    as_yaml = compute("-o", "yaml", objects=GOOD)
    assert yaml.safe_load(as_yaml.out) == as_json.document


def test_a_service_refused_before_its_families_are_known_is_one_item(compute: Compute) -> None:
    done = compute("-o", "json", objects=[service(spec={"type": "ClusterIP"}), pod()])
    (item,) = done.items
    assert list(item) == ITEM_KEYS
    assert (item["family"], item["vip"], item["status"]) == (None, None, "skipped")
    assert (item["pods"], item["ports"], item["excludedNetworks"]) == ([], [], [])
    assert item["reason"] == "spec.type is ClusterIP, not LoadBalancer"


def test_the_table_has_a_line_a_service_and_family(compute: Compute) -> None:
    done = compute(objects=GOOD)
    head, row = done.out.splitlines()
    assert head.split() == ["SERVICE", "FAMILY", "VIP", "PODS", "PORTS", "STATUS"]
    assert row.split() == ["sip/sip-client", "ipv4", "192.168.0.245", "1", "udp:5060", "wanted"]


def test_the_wide_table_has_networks_and_addresses_too(compute: Compute) -> None:
    objects = [service(allowed_networks="192.168.0.0/16", denied_networks="192.168.9.0/24"), pod()]
    row = compute("-o", "wide", objects=objects).out.splitlines()[1]
    for cell in ("192.168.0.0/16", "192.168.9.0/24", "10.0.0.0/16,10.96.0.0/12", "10.0.0.1"):
        assert cell in row


def test_restore_text_loads_into_a_parser_and_names_one_family(compute: Compute) -> None:
    done = compute("-o", "iptables", objects=GOOD)
    assert done.status == 0
    assert done.out.startswith("*nat\n:KVCTL-SVC-")
    assert done.out.endswith("\nCOMMIT\n")
    assert "-j SNAT --to-source 192.168.0.245\n" in done.out
    tried = subprocess.run(
        ["unshare", "--net", "iptables-nft-restore", "--noflush", "--test"],
        input=done.out,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (tried.returncode, tried.stdout) == (0, "")


def test_restore_text_of_a_family_without_rules_changes_nothing(compute: Compute) -> None:
    assert compute("-o", "iptables", "--family", "ipv6", objects=GOOD).out == "*nat\nCOMMIT\n"


def test_ipv6_works_by_its_own_ranges(compute: Compute) -> None:
    objects = [service(vip="fd00:1::9"), pod(ip="fd00:10::1")]
    ranges = ("--pod-cidr", "fd00:10::/48", "--service-cidr", "fd00:96::/108")
    (item,) = compute("-o", "json", *ranges, objects=objects).items
    assert (item["family"], item["vip"], item["status"]) == ("ipv6", "fd00:1::9", "wanted")
    assert item["excludedNetworks"] == ["fd00:10::/48", "fd00:96::/108", "fe80::/10", "ff00::/8"]
    text = compute("-o", "iptables", "--family", "ipv6", *ranges, objects=objects).out
    assert "-s fd00:10::1/128" in text


class TestExitStatus:
    """0 done, 1 bad input or a named Service skipped, 2 usage, 5 no cluster."""

    def test_services_skipped_for_their_state_are_a_note(self, compute: Compute) -> None:
        done = compute(objects=[service(vip=None), pod()])
        assert done.status == 0
        assert done.err.startswith("Note: sip/sip-client skipped: no VIP: ")

    def test_a_service_named_and_skipped_is_1(self, compute: Compute) -> None:
        objects = [service(vip=None), pod(), service("web", vip="192.168.0.9"), pod("web-0", "10.0.0.2")]
        assert compute("sip/sip-client", objects=objects).status == 1
        done = compute("sip/web", objects=objects)
        assert (done.status, done.err) == (0, "")

    def test_an_invalid_value_is_1_and_the_rest_is_done(self, compute: Compute) -> None:
        objects = [
            service(destination_ports="5060"),
            pod(),
            service("web", vip="192.168.0.9"),
            pod("web-0", "10.0.0.2"),
        ]
        done = compute("-o", "json", objects=objects)
        assert done.status == 1
        assert [item["status"] for item in done.items] == ["skipped", "wanted"]
        assert (
            'Error: sip/sip-client: kube-vip.io/egress-destination-ports "5060" has no protocol\n'
            "Hint: write tcp:5060\n"
        ) in done.err
        # Once: the reason of the item does not say it again, but in JSON, where there is nothing else to read.
        assert done.err.count("has no protocol") == 1
        assert "Note: sip/sip-client (ipv4) skipped: see the error above\n" in done.err
        assert "has no protocol" in done.items[0]["reason"]

    def test_a_misspelt_annotation_that_would_narrow_is_an_error(self, compute: Compute) -> None:
        done = compute("-o", "json", objects=[service(destination_port="udp:5060"), pod()])
        assert done.status == 1
        assert [item["status"] for item in done.items] == ["skipped"]
        assert (
            'Error: sip/sip-client: kube-vip.io/egress-destination-ports "udp:5060" is misspelt: '
            '"kube-vip.io/egress-destination-port" is not read\n'
            "Hint: write kube-vip.io/egress-destination-ports\n"
        ) in done.err

    def test_a_misspelt_switch_is_said_although_nothing_is_asked(self, compute: Compute) -> None:
        silent = service()
        silent["metadata"]["annotations"] = {"kube-vip.io/egres": "true"}
        done = compute(objects=[silent, pod()])
        assert (
            'Warning: sip/sip-client: the annotation "kube-vip.io/egres" has no effect here: '
            "did you mean kube-vip.io/egress?\n"
        ) in done.err

    def test_kinds_that_were_passed_over_are_named_where_no_service_is_left(self, compute: Compute) -> None:
        done = compute(
            objects=[{**service(), "kind": "Servic"}, {**service(), "apiVersion": "knative.dev/v1"}]
        )
        assert done.err == (
            'Note: there is no Service in the source; passed over: "Servic", "Service of knative.dev/v1"\n'
        )

    def test_an_error_of_another_service_is_not_that_of_the_one_named(self, compute: Compute) -> None:
        objects = [service(destination_ports="5060"), pod(), service("web", vip="192.168.0.9")]
        done = compute("web", "-n", "sip", objects=[*objects, pod("web-0", "10.0.0.2")])
        assert (done.status, done.err) == (0, "")

    def test_a_service_that_is_not_there_or_does_not_ask_is_1(self, compute: Compute) -> None:
        done = compute("sip/nobody", objects=GOOD)
        assert done.status == 1
        assert "Error: sip/nobody is not in the source\nHint: " in done.err
        silent = service()
        del silent["metadata"]["annotations"]
        done = compute("sip/sip-client", objects=[silent, pod()])
        assert done.status == 1
        assert "sip/sip-client does not ask for egress" in done.err

    def test_no_service_that_asks_is_0_and_said(self, compute: Compute) -> None:
        done = compute(objects=[pod()])
        assert (done.status, done.out) == (0, "")
        assert done.err == "Note: there is no Service in the source\n"
        assert compute("-o", "json", objects=[pod()]).items == []
        half = service(ports="udp:5060")
        half["metadata"]["annotations"]["kube-vip.io/egress"] = "false"
        done = compute(objects=[half])
        assert done.status == 0
        assert "is true for none of 1 Service; sip/sip-client has egress annotations" in done.err

    def test_a_malformed_object_is_1_and_the_rest_is_done(self, compute: Compute) -> None:
        bad = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "Bad Name!"}}
        done = compute("-o", "json", objects=[bad, *GOOD])
        assert done.status == 1
        assert [item["status"] for item in done.items] == ["wanted"]
        assert "Error: Service" in done.err

    def test_a_missing_file_is_1(self, compute: Compute) -> None:
        done = compute("-f", "/nonexistent")
        assert (done.status, done.out) == (1, "")
        assert "there is no such file" in done.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--pod-cidr", "10.0.0.0/33"],
            ["--pod-cidr", "10.0.0.5/16"],
            ["--service-cidr", "x"],
            ["--exclude-cidr", "0.0.0.0/0"],
            ["--vip-range", "\x1b[31m"],
            ["--node", "Not A Node"],
            ["--interface", "a b"],
            ["--family", "ipv5"],
            ["-o", "xml"],
            ["SIP/client"],
            ["a/b/c"],
            ["client", "-n", "Not"],
            ["-o", "iptables", "sip/sip-client"],
        ],
    )
    def test_wrong_usage_is_2_with_nothing_on_standard_output(
        self, compute: Compute, arguments: list[str]
    ) -> None:
        done = compute(*arguments, objects=GOOD)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith("Error: ")
        assert "\x1b" not in done.err

    def test_no_source_and_no_cluster_is_5_and_names_the_file_option(self, compute: Compute) -> None:
        done = compute()
        assert (done.status, done.out) == (5, "")
        assert "-f" in done.err.partition("Hint: ")[2]


class TestSettings:
    """Flag, else environment, else default."""

    def excluded(self, done: Done) -> list[str]:
        found: list[str] = done.items[0]["excludedNetworks"]
        return found

    @pytest.mark.parametrize(
        ("flag", "variable"),
        [
            ("--pod-cidr", "egress_podcidr"),
            ("--service-cidr", "egress_servicecidr"),
            ("--exclude-cidr", "egress_excludecidrs"),
        ],
    )
    def test_networks_come_from_the_flag_then_from_the_environment(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch, flag: str, variable: str
    ) -> None:
        others = () if flag == "--pod-cidr" else ("--pod-cidr", "10.0.0.0/16")
        monkeypatch.setenv(variable, " 10.0.0.0/20 , 172.30.0.0/16 ")
        found = self.excluded(compute("-o", "json", *others, objects=GOOD))
        assert "172.30.0.0/16" in found
        flags = (flag, "10.0.0.0/19", flag, "172.31.0.0/16")
        found = self.excluded(compute("-o", "json", *flags, *others, objects=GOOD))
        assert "172.31.0.0/16" in found
        assert "172.30.0.0/16" not in found

    @pytest.mark.parametrize(
        "variable", ["egress_podcidr", "egress_vipranges", "vip_nodename", "vip_interface"]
    )
    def test_an_empty_variable_is_unset(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "")
        done = compute("-o", "json", objects=GOOD)
        assert (done.status, done.items[0]["interface"]) == (0, None)

    @pytest.mark.parametrize(
        "variable", ["egress_podcidr", "vip_nodename", "NODE_NAME", "vip_interface", "egress_excludenodes"]
    )
    def test_a_faulty_variable_is_2_and_named(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "not that\x1b")
        done = compute(objects=GOOD)
        assert done.status == 2
        assert f"environment variable {variable}" in done.err
        assert "\x1b" not in done.err

    def test_the_nodes_of_the_file_are_excluded_unless_turned_off(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "worker"},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.2"}]},
        }
        assert "172.16.0.2/32" in self.excluded(compute("-o", "json", objects=[*GOOD, worker]))
        monkeypatch.setenv("egress_excludenodes", "F")
        assert "172.16.0.2/32" not in self.excluded(compute("-o", "json", objects=[*GOOD, worker]))

    def test_all_nodes_count_unless_the_flag_itself_is_given(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects = [*GOOD, pod("sip-client-1", "10.0.0.2", node="other")]
        monkeypatch.setenv("NODE_NAME", "other")
        assert len(compute("-o", "json", objects=objects).items[0]["pods"]) == 2
        done = compute("-o", "json", "--node", "other", objects=objects)
        assert [it["name"] for it in done.items[0]["pods"]] == ["sip-client-1"]
        assert done.document["node"] == "other"
        nowhere = compute("--node", "third", objects=objects)
        assert "no pod on node third: the pods are on other, worker" in nowhere.err

    def test_the_interface_comes_from_flag_or_environment_in_their_order(
        self, compute: Compute, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("vip_interface", "eth1")
        assert compute("-o", "json", objects=GOOD).items[0]["interface"] == "eth1"
        monkeypatch.setenv("vip_servicesinterface", "eth2")
        assert compute("-o", "json", objects=GOOD).items[0]["interface"] == "eth2"
        done = compute("-o", "json", "--interface", "eth3", objects=GOOD)
        assert done.items[0]["interface"] == "eth3"

    def test_a_wrong_default_is_refused_with_the_way_out(self, compute: Compute) -> None:
        done = compute(objects=[service(spec={"clusterIP": "172.20.0.9"}), pod(ip="10.244.1.5")])
        assert done.status == 0
        assert (
            "pod 10.244.1.5 is outside the pod CIDR 10.0.0.0/16 (default): set --pod-cidr or egress_podcidr"
        ) in done.err
        assert (
            "clusterIP 172.20.0.9 is outside the service CIDR 10.96.0.0/12 (default): "
            "set --service-cidr or egress_servicecidr"
        ) in done.err


HOSTILE = (
    "\x1b[31mred\x07",
    "a\r\nb",
    "x\0y",
    "\u202eevil",
    "tcp:80 -j ACCEPT",
    "\x9b1m",
    "[bold]x[/bold]",
    "," * 10**6,
)


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "iptables"])
def test_nothing_a_tenant_writes_reaches_the_terminal_as_it_is(
    compute: Compute, value: str, output: str
) -> None:
    it = service(
        destination_ports=value,
        allowed_networks=value,
        denied_networks=value,
        spec={"selector": {"a": value}},
    )
    it["metadata"]["annotations"] |= {
        "kube-vip.io/serviceInterface": value,
        "kube-vip.io/loadbalancerIPs": value,
        f"kvctl.io/{value[:80]}": value,
    }
    it["status"]["loadBalancer"]["ingress"] = [{"ip": value}, {"ip": "192.168.0.245"}]
    other = service("second", vip="192.168.0.246", spec={"selector": {"a": value}, "loadBalancerIP": value})
    done = compute("-o", output, objects=[it, other, pod()])
    assert done.status == 1
    for text in (done.out, done.err):
        assert all(c == "\n" or (c.isascii() and c.isprintable()) for c in text)
        assert len(text) < 20_000
    assert "Traceback" not in done.err
    if output == "iptables":
        assert done.out == "*nat\nCOMMIT\n"


@pytest.mark.parametrize("key", ["name", "namespace"])
def test_names_that_are_no_names_are_refused_not_printed(compute: Compute, key: str) -> None:
    it = service()
    it["metadata"][key] = "\x1b[31m; reboot"
    done = compute("-o", "json", objects=[it, *GOOD])
    assert done.status == 1
    assert [item["service"] for item in done.items] == ["sip-client"]
    assert "\x1b" not in done.out + done.err
