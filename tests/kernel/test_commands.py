"""The commands as a user runs them on a node: exit status, standard output, standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from kvctl import proc
from kvctl.lab.build import Lab
from kvctl.lab.echo import Echo
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import STANDARD
from kvctl.lab.traffic import Connection
from kvctl.model.net import Family
from kvctl.netfilter.lock import namespace_lock
from tests.conftest import MakeLab
from tests.kernel.conftest import PORTS
from tests.kernel.node import VIPS, Packets

Json = dict[str, Any]
FLAGS = ("--pod-cidr", "10.0.0.0/16,fd00:10::/64", "--service-cidr", "10.96.0.0/12,fd00:96::/112")
V4 = STANDARD[Family.IPV4]


def service(
    name: str = "sip-client",
    *,
    annotations: Mapping[str, str] | None = None,
    vips: tuple[str, ...] = VIPS,
    **spec: object,
) -> Json:
    """A Service as a manifest has it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "sip",
            "annotations": {"kube-vip.io/egress": "true", **(annotations or {})},
        },
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"app": "phone"},
            **spec,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": vip} for vip in vips]}},
    }


def pod() -> Json:
    """The lab's pod as a manifest has it."""
    addresses = [{"ip": each.pod} for each in STANDARD.values()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "phone-0", "namespace": "sip", "labels": {"app": "phone"}},
        "spec": {"nodeName": "worker"},
        "status": {"podIP": V4.pod, "podIPs": addresses},
    }


BROKEN = {"kube-vip.io/egress-destination-ports": "5060"}


@dataclass(frozen=True)
class Shell:
    """kvctl on the lab's worker."""

    lab: Lab

    def __call__(
        self,
        command: str,
        *words: str,
        source: list[Json] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> proc.Completed:
        """`kvctl egress COMMAND WORDS`, with `source` on its standard input."""
        piped = [] if source is None else ["-f", "-", "--node", "worker", *FLAGS]
        text = None if source is None else json.dumps({"kind": "List", "apiVersion": "v1", "items": source})
        return self.lab.kvctl("egress", command, *words, *piped, stdin=text, env=env)

    def items(self, command: str, *words: str, source: list[Json] | None = None) -> list[Json]:
        """The items of the JSON output."""
        done = self(command, *words, "-o", "json", source=source)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        assert (found["schemaVersion"], found["backend"]) == (1, self.lab.topology.backend)
        items: list[Json] = found["items"]
        return items


@pytest.fixture
def egress(lab: Lab) -> Shell:
    """kvctl on each back end."""
    return Shell(lab)


@pytest.fixture
def nft(make_lab: MakeLab) -> Shell:
    """kvctl on one back end, for what does not depend on it."""
    return Shell(make_lab())


def test_diff_apply_list_flush_tell_one_story(egress: Shell) -> None:
    source = [service(annotations={"kube-vip.io/egress-destination-ports": "udp:5060"}), pod()]
    before = egress("diff", source=source)
    assert before.status == 3
    assert "+ ipv4 nat: -I POSTROUTING " in before.stdout
    assert "missing" in before.stdout

    applied = egress("apply", source=source)
    assert (applied.status, applied.stderr) == (0, "")
    assert applied.stdout.count("added") == 2

    again = egress("apply", source=source)
    assert (again.status, again.stdout) == (0, "")
    assert "nothing to change" in again.stderr
    same = egress("diff", source=source)
    assert same.status == 0
    assert "no difference" in same.stderr

    with Echo(egress.lab.outside, ports=PORTS):
        assert [Packets(egress.lab, family).seen() for family in Family] == list(VIPS)
    items = egress.items("list")
    assert [(i["service"], i["family"], i["status"], i["connections"]) for i in items] == [
        ("sip-client", "ipv4", "applied", 1),
        ("sip-client", "ipv6", "applied", 1),
    ]
    assert items[0]["pods"] == [{"name": "phone-0", "ip": V4.pod, "node": None}]
    assert items[0]["ports"] == ["udp:5060"]
    assert items[0]["excludedNetworks"] == ["10.0.0.0/16", "10.96.0.0/12", "169.254.0.0/16", "224.0.0.0/4"]

    flushed = egress("flush", "sip/sip-client")
    assert flushed.status == 0
    assert flushed.stdout.count("removed") == 2
    empty = egress("list")
    assert (empty.status, empty.stdout) == (0, "")
    assert "no egress rules on this node" in empty.stderr
    for backend in ("nft", "legacy"):
        saved = egress.lab.worker.run([f"iptables-{backend}-save"]).stdout
        assert "KVCTL" not in saved


def test_the_text_of_diff_is_what_makes_the_difference_go(egress: Shell) -> None:
    source = [service(), pod()]
    for family, program in ((Family.IPV4, "iptables"), (Family.IPV6, "ip6tables")):
        done = egress("diff", "-o", "iptables", "--family", str(family), source=source)
        assert done.status == 3
        argv = [f"{program}-{egress.lab.topology.backend}-restore", "--noflush"]
        assert egress.lab.worker.run(argv, stdin=done.stdout).status == 0
    assert egress("diff", source=source).status == 0
    quiet = egress("diff", "-o", "iptables", source=source)
    assert (quiet.status, quiet.stdout) == (0, "")


def test_a_dry_run_prints_what_diff_prints_and_changes_nothing(nft: Shell) -> None:
    source = [service(), pod()]
    dry = nft("apply", "--dry-run", source=source)
    assert dry.status == 0
    assert dry.stdout == nft("diff", source=source).stdout
    assert nft("list").stdout == ""


def test_a_broken_annotation_is_1_and_the_rest_is_done(nft: Shell) -> None:
    source = [service(vips=VIPS[:1]), service("bad", annotations=BROKEN), pod()]
    done = nft("apply", source=source)
    assert done.status == 1
    assert 'kube-vip.io/egress-destination-ports "5060"' in done.stderr
    assert "Error: sip/bad" in done.stderr
    assert "Hint: write tcp:5060" in done.stderr
    assert "Traceback" not in done.stderr
    assert [(i["service"], i["status"]) for i in nft.items("list")] == [("sip-client", "applied")]
    # An error beats a difference.
    different = [service(vips=VIPS), *source[1:]]
    assert nft("diff", source=different).status == 1


@pytest.mark.parametrize(
    ("faulty", "why"),
    [
        (service(externalTrafficPolicy="Cluster"), "spec.externalTrafficPolicy is Cluster, not Local"),
        (service(type="NodePort"), "spec.type is NodePort, not LoadBalancer"),
        (service(vips=()), "status.loadBalancer.ingress"),
        (service(selector={"app": "nobody"}), "spec.selector app=nobody"),
        (service(vips=("192.168.0.199",)), "is on no interface of this node"),
        (service(annotations={"kube-vip.io/ignore": "true"}), "kube-vip.io/ignore"),
    ],
    ids=["policy", "type", "no VIP", "no pod", "elsewhere", "ignored"],
)
def test_a_service_skipped_for_its_state_is_a_note_and_1_if_it_was_named(
    nft: Shell, faulty: Json, why: str
) -> None:
    for command in ("apply", "diff"):
        done = nft(command, source=[faulty, pod()])
        assert done.status == 0
        assert why in done.stderr
        assert "Error" not in done.stderr
        named = nft(command, "sip/sip-client", source=[faulty, pod()])
        assert named.status == 1
        assert why in named.stderr


def test_a_clusterip_or_pods_outside_the_ranges_name_the_flag(nft: Shell) -> None:
    outside = service(clusterIP="10.200.0.1", clusterIPs=["10.200.0.1"], vips=VIPS[:1])
    done = nft("apply", source=[outside, pod()])
    assert "clusterIP 10.200.0.1 is outside the service CIDR 10.96.0.0/12 (--service-cidr)" in done.stderr
    assert "set --service-cidr or egress_servicecidr" in done.stderr
    assert nft("list").stdout == ""


def test_a_named_service_that_is_nowhere_is_1(nft: Shell) -> None:
    done = nft("apply", "sip/nowhere", source=[service(), pod()])
    assert done.status == 1
    assert "sip/nowhere" in done.stderr
    assert nft("list").stdout == ""


def test_a_name_without_a_namespace_takes_the_option_or_default(nft: Shell) -> None:
    source = [service(), pod()]
    assert nft("apply", "sip-client", source=source).status == 1
    assert nft("apply", "sip-client", "-n", "sip", source=source).status == 0
    assert len(nft.items("list")) == 2


def test_flush_of_what_is_not_there_is_0_with_a_note(nft: Shell) -> None:
    done = nft("flush", "sip/never")
    assert (done.status, done.stdout) == (0, "")
    assert "sip/never has no rules on this node" in done.stderr
    everything = nft("flush", "--all")
    assert (everything.status, everything.stdout) == (0, "")
    assert "nothing to remove" in everything.stderr


@pytest.mark.parametrize(
    "words", [(), ("--all", "sip/a"), ("a/b/c",), ("sip/A_b",), ("--al",), ("-o", "xml", "--all")]
)
def test_wrong_usage_of_flush_is_2(nft: Shell, words: tuple[str, ...]) -> None:
    done = nft("flush", *words)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize("command", ["apply", "diff"])
def test_without_any_source_it_is_5_and_the_hint_names_the_file_option(nft: Shell, command: str) -> None:
    done = nft(command, env={"HOME": "/nonexistent", "KUBERNETES_SERVICE_HOST": ""})
    assert (done.status, done.stdout) == (5, "")
    assert "-f" in done.stderr.partition("Hint: ")[2]


def test_a_file_that_is_not_there_is_1(nft: Shell) -> None:
    done = nft("apply", "-f", "/nonexistent/services.yaml")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize("command", ["apply", "flush"])
def test_while_another_kvctl_changes_the_namespace_it_waits_and_then_is_4(nft: Shell, command: str) -> None:
    with nft.lab.worker.entered(), namespace_lock(timeout=5):
        arguments = ("--all",) if command == "flush" else ()
        source = [service(), pod()] if command == "apply" else None
        done = nft(command, *arguments, "--lock-timeout", "0.2", source=source)
        assert nft("list").status == 0
    assert done.status == 4
    assert "another kvctl is changing this network namespace" in done.stderr
    assert "Hint: " in done.stderr


def test_without_rights_it_is_4_with_the_next_step(nft: Shell) -> None:
    done = nft.lab.worker.run(
        ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw", "true"]
    )
    if done.status != 0:
        pytest.skip("setpriv is not there")
    argv = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]
    listed = _run_under(nft.lab, argv, "egress", "list")
    assert listed.status == 4
    assert "Hint: run as root, or with CAP_NET_ADMIN" in listed.stderr


def _run_under(lab: Lab, wrapper: list[str], *arguments: str) -> proc.Completed:
    """kvctl on the worker, started by `wrapper`."""

    class Wrapped(Namespace):
        def argv(self, argv: Any) -> list[str]:
            return super().argv([*wrapper, *argv])

    inside = {**lab.namespaces, "worker": Wrapped(lab.worker.name)}
    return Lab(topology=lab.topology, prefix=lab.prefix, namespaces=inside).kvctl(*arguments)


def test_list_with_a_source_compares(nft: Shell) -> None:
    source = [service(vips=VIPS[:1]), pod()]
    assert [i["status"] for i in nft.items("list", source=source)] == ["missing"]
    nft("apply", source=source)
    assert [i["status"] for i in nft.items("list", source=source)] == ["applied"]
    nft.lab.worker.run(["iptables-nft", "-t", "nat", "-I", "POSTROUTING", "-j", "MASQUERADE"])
    assert [i["status"] for i in nft.items("list", source=source)] == ["drifted"]
    drifted = nft("diff", source=source)
    assert drifted.status == 3
    assert "another program's rule comes first" in drifted.stderr
    nft("apply", source=source)
    assert [i["status"] for i in nft.items("list", source=[pod()])] == ["orphaned"]
    assert [(i["status"], i["changes"]) for i in nft.items("diff", source=[pod()])] == [("orphaned", [])]
    kept = nft("diff", source=[pod()])
    assert kept.status == 0
    assert nft("diff", "--prune", source=[pod()]).status == 3
    assert nft("apply", "--prune", source=[pod()]).status == 0
    assert nft("list").stdout == ""


def test_other_excluded_networks_refuse_a_named_apply_with_a_hint(nft: Shell) -> None:
    source = [
        service(),
        service("second", annotations={"kube-vip.io/egress-destination-ports": "tcp:1"}),
        pod(),
    ]
    nft("apply", "sip/sip-client", source=source)
    done = nft("apply", "sip/second", "--exclude-cidr", "203.0.113.0/24", source=source)
    assert (done.status, done.stdout) == (1, "")
    assert "only wanted: 203.0.113.0/24" in done.stderr
    assert "Hint: run apply without naming a Service" in done.stderr


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_connections_are_kept_by_flag_or_environment(nft: Shell, way: str) -> None:
    words = ("--keep-connections",) if way == "flag" else ()
    env = {"egress_keepconnections": "true"} if way == "environment" else None
    with (
        Echo(nft.lab.outside, ports=[5060]),
        Connection(nft.lab.pod, destination=V4.outside_eth1, port=5060) as flow,
    ):
        assert flow.ask() is not None
        assert nft("apply", *words, source=[service(), pod()], env=env).status == 0
        kept = flow.ask()
        healed = nft("apply", source=[service(), pod()])
        after = flow.ask()
    assert kept is not None
    assert kept.source == V4.worker_eth1
    assert "dropped 1 connection with the wrong source address" in healed.stderr
    assert after is not None
    assert after.source == V4.vip


def test_the_other_back_end_can_be_told_and_the_rules_move(egress: Shell) -> None:
    source = [service(vips=VIPS[:1]), pod()]
    other = egress.lab.topology.backend == "legacy"
    assert egress("apply", source=source).status == 0
    flag = "--nftables" if other else "--no-nftables"
    assert egress("diff", flag, source=source).status == 3
    assert egress("apply", source=source, env={"egress_withnftables": str(other)}).status == 0
    assert egress("diff", flag, source=source).status == 0
    saved = egress.lab.worker.run([f"iptables-{egress.lab.topology.backend}-save"]).stdout
    assert "KVCTL" not in saved
    assert egress("flush", "--all", flag).status == 0


def test_standard_output_carries_json_even_where_there_is_much_to_say(nft: Shell) -> None:
    source = [service("bad", annotations=BROKEN), service("unready", vips=()), service(), pod()]
    done = nft("apply", "-o", "json", source=source)
    assert done.status == 1
    items = json.loads(done.stdout)["items"]
    assert {(i["service"], i["status"]) for i in items} == {
        ("bad", "skipped"),
        ("unready", "skipped"),
        ("sip-client", "applied"),
    }
    assert all("changes" in item for item in items)
    as_yaml = nft("apply", "-o", "yaml", source=source)
    assert as_yaml.stdout.startswith("schemaVersion: 1\n")
