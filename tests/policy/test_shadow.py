"""A pod of several Services: who comes first, and who is told that nothing is left."""

from __future__ import annotations

import pytest

from kvctl.model.objects import Service
from kvctl.policy.verdict import Fate
from tests.builders import pod, service
from tests.policy.answers import policy_of, resolved, skip_of, wanted_names


def of(name: str, created: int = 5, **more: str) -> Service:
    """A Service over the pods of app `x`, with a VIP of its own."""
    vip = f"192.168.1.{ord(name[-1])}"
    return service(f"ns/{name}", vip=vip, selector={"app": "x"}, created=created, **more)  # type: ignore[arg-type]


POD = pod("ns/x-0", "10.0.0.1")


def warnings(name: str, *services: Service) -> tuple[str, ...]:
    (found,) = [w for w in resolved(*services, POD).wanted if str(w.policy.ref) == f"ns/{name}"]
    return found.warnings


def test_ports_come_before_networks_and_networks_before_everything_then_age_then_name() -> None:
    asked: list[tuple[str, int, dict[str, str]]] = [
        ("p", 9, {"ports": "tcp:1"}),
        ("n", 8, {"allowed": "192.168.0.0/16"}),
        ("b", 1, {}),
        ("a", 2, {}),
        ("c", 2, {}),
        ("z", 0, {}),
    ]
    ranks = [policy_of(resolved(of(n, age, **how), POD), f"ns/{n}").rank for n, age, how in asked]
    assert ranks == sorted(ranks)


def test_a_part_taken_by_ports_is_a_warning_on_the_loser() -> None:
    assert warnings("a", of("a"), of("b", ports="udp:5060")) == (
        "ns/b comes first for a part of this traffic of the same pods",
    )
    assert warnings("b", of("a"), of("b", ports="udp:5060")) == ()


def test_a_second_service_for_everything_is_wholly_shadowed() -> None:
    answer = resolved(of("a", 2), of("b", 1), POD)
    assert wanted_names(answer) == ["ns/b"]
    skip = skip_of(answer, "ns/a")
    assert skip.reason == "wholly shadowed: ns/b comes first for all of this traffic of the same pods"
    assert skip.fate is Fate.LOSE


@pytest.mark.parametrize(
    ("higher", "lower", "what"),
    [
        ([{"ports": "tcp:1-10"}], {"ports": "tcp:3-4"}, "whole"),
        ([{"ports": "tcp:1-10"}], {"ports": "tcp:3-11"}, "part"),
        ([{"ports": "tcp:1-10"}], {"ports": "tcp:11"}, None),
        ([{"ports": "tcp:1-10"}], {"ports": "udp:3"}, None),
        ([{"ports": "tcp:1-5"}, {"ports": "tcp:6-10"}], {"ports": "tcp:3-8"}, "whole"),
        ([{"ports": "tcp:1-5"}, {"ports": "tcp:7-10"}], {"ports": "tcp:3-8"}, "part"),
        ([{"ports": "tcp:1-65535,udp:1-65535,sctp:1-65535"}], {}, "part"),
        ([{"allowed": "192.168.0.0/16"}], {"allowed": "192.168.5.0/24"}, "whole"),
        ([{"allowed": "192.168.5.0/24"}], {"allowed": "192.168.0.0/16"}, "part"),
        ([{"allowed": "192.168.5.0/24"}], {"allowed": "192.168.6.0/24"}, None),
        (
            [{"allowed": "192.168.0.0/25"}, {"allowed": "192.168.0.128/25"}],
            {"allowed": "192.168.0.0/24"},
            "whole",
        ),
        ([{"allowed": "192.168.0.0/16", "denied": "192.168.5.0/25"}], {"allowed": "192.168.5.0/24"}, "part"),
        (
            [{"allowed": "192.168.0.0/16", "denied": "192.168.5.0/25"}],
            {"allowed": "192.168.5.0/24", "denied": "192.168.5.0/24"},
            None,
        ),
        (
            [{"allowed": "192.168.0.0/16", "denied": "192.168.5.0/25"}],
            {"allowed": "192.168.5.0/24", "denied": "192.168.5.0/25"},
            "whole",
        ),
        ([{"allowed": "192.168.0.0/16", "denied": "192.168.5.0/24"}], {"allowed": "192.168.5.0/24"}, None),
        ([{"denied": "192.168.5.0/24"}], {}, "part"),
        ([{"denied": "192.168.5.0/24"}], {"denied": "192.168.0.0/16"}, "whole"),
        ([{"ports": "tcp:1-9", "allowed": "192.168.0.0/16"}], {"ports": "tcp:5"}, "part"),
        (
            [{"ports": "tcp:1-9", "allowed": "192.168.0.0/16"}],
            {"ports": "tcp:5", "allowed": "192.168.1.0/24"},
            "whole",
        ),
    ],
)
def test_what_is_left_for_a_service_below_others(
    higher: list[dict[str, str]], lower: dict[str, str], what: str | None
) -> None:
    above = [of(name, 1, **asked) for name, asked in zip("ab", higher, strict=False)]
    below = of("z", 9, **lower)
    answer = resolved(*above, below, POD)
    if lower.get("allowed") and lower.get("allowed") == lower.get("denied"):
        assert "leaves no ipv4 network" in skip_of(answer, "ns/z").reason
        return
    names = wanted_names(answer)
    assert [str(it.ref) for it in above] == [name for name in names if name != "ns/z"]
    if what == "whole":
        assert skip_of(answer, "ns/z").reason.startswith("wholly shadowed: ")
        return
    (found,) = [w for w in answer.wanted if str(w.policy.ref) == "ns/z"]
    assert [("a part" in text) for text in found.warnings] == ([True] if what == "part" else [])


def test_a_service_with_a_pod_of_its_own_is_not_wholly_shadowed() -> None:
    a = service("ns/a", vip="192.168.1.1", selector={"app": "x"}, created=9)
    b = service("ns/b", vip="192.168.1.2", selector={"only": "x"}, created=1)
    answer = resolved(a, b, pod("ns/x-0", "10.0.0.1", labels={"only": "x"}), pod("ns/x-1", "10.0.0.2"))
    assert wanted_names(answer) == ["ns/a", "ns/b"]
    assert "a part" in answer.wanted[0].warnings[0]


def test_what_is_shadowed_wholly_takes_nothing_from_others() -> None:
    answer = resolved(of("a", 1), of("b", 2), of("c", 3), POD)
    assert wanted_names(answer) == ["ns/a"]
    assert len(answer.skipped) == 2


def test_many_services_over_many_pods_are_judged_once() -> None:
    services = [of(f"s{n:03}", n + 1, ports=f"tcp:{n + 1}") for n in range(300)]
    pods = [pod(f"ns/x-{n}", f"10.0.{n // 256}.{n % 256}") for n in range(300)]
    answer = resolved(*services, of("all", 999), *pods)
    assert len(answer.wanted) == 301
    (sentence,) = next(w.warnings for w in answer.wanted if str(w.policy.ref) == "ns/all")
    assert sentence.startswith("ns/s000, ns/s001, ")
    assert " and others come first for a part " in sentence
