"""What is to be changed for a way out, from what was found: pure."""

from __future__ import annotations

from kvctl.model.net import Family, parse_address
from kvctl.model.rules import Mark
from kvctl.model.way import DEFAULT_SPACE, MarkSpace, Way
from kvctl.node.routing_messages import UNICAST, SeenRule, TableRoute, rule_payload
from kvctl.node.routing_plan import Found, RoutingPlan, plan
from tests.builders import networks

WAY = Way(
    interface="eth1",
    family=Family.IPV4,
    mark=0x4,
    table=7500,
    gateway=parse_address("172.16.0.250"),
    networks=networks("172.16.0.0/24"),
)
EXCLUSIONS = {Family.IPV4: networks("10.0.0.0/16", "10.96.0.0/12")}


def carried_out(done: RoutingPlan) -> Found:
    """What is found after `done` on an empty host."""
    rules = (*done.add_guards, *done.add_leads)
    seen = tuple(SeenRule(rule, 75, rule_payload(rule)) for rule in rules)
    return Found(rules=seen, routes=tuple(added.route for added in done.add_routes))


def test_nothing_is_to_do_for_nothing_or_for_what_is_there() -> None:
    assert not plan([], Found(), exclusions=EXCLUSIONS)
    there = carried_out(plan([WAY], Found(), exclusions=EXCLUSIONS))
    assert plan([WAY], there, exclusions=EXCLUSIONS) == RoutingPlan()


def test_a_rule_that_is_there_twice_is_taken_away_once() -> None:
    there = carried_out(plan([WAY], Found(), exclusions=EXCLUSIONS))
    twice = there._replace(rules=(*there.rules, there.rules[-1]))
    done = plan([WAY], twice, exclusions=EXCLUSIONS)
    assert done == RoutingPlan(remove_leads=(there.rules[-1],))


def test_of_two_ways_for_one_table_the_first_counts() -> None:
    other = WAY._replace(gateway=parse_address("172.16.0.9"))
    first = plan([WAY, other], Found(), exclusions=EXCLUSIONS)
    assert first == plan([WAY], Found(), exclusions=EXCLUSIONS)


def test_excluded_networks_of_the_interface_are_not_copied() -> None:
    way = WAY._replace(
        networks=networks("172.16.0.0/24", "10.0.3.0/24"),
        via=((networks("10.0.4.0/24")[0], parse_address("172.16.0.9")),),
    )
    assert plan([way], Found(), exclusions=EXCLUSIONS) == plan([WAY], Found(), exclusions=EXCLUSIONS)


def test_exclusions_of_everything_or_of_another_family_do_no_harm() -> None:
    exclusions = {Family.IPV4: networks("0.0.0.0/0", "fd00::/8")}
    done = plan([WAY], Found(), exclusions=exclusions)
    assert [str(rule) for rule in done.add_guards] == [
        "7502: nop",
        "7500: fwmark 0x0/0x3c goto 7502",
        "7500: goto 7502",
    ]


def test_a_family_without_a_way_has_no_rules() -> None:
    both = {**EXCLUSIONS, Family.IPV6: networks("fd00::/8")}
    done = plan([WAY], Found(), exclusions=both)
    assert {rule.family for rule in (*done.add_guards, *done.add_leads)} == {Family.IPV4}


def test_the_marks_that_are_there_are_those_of_these_settings() -> None:
    there = carried_out(plan([WAY], Found(), exclusions=EXCLUSIONS))
    assert there.marks(DEFAULT_SPACE) == {"eth1": 0x4}
    assert there.marks(MarkSpace(mask=0x3C00)) == {}
    assert there.marks(MarkSpace(first_table=8000)) == {}


def test_what_is_broken_between_a_mark_and_its_way_is_told() -> None:
    there = carried_out(plan([WAY], Found(), exclusions=EXCLUSIONS))
    mark = Mark(0x4, 0x3C)
    assert there.broken(mark, Family.IPV4, DEFAULT_SPACE) is None
    for found, words in (
        (there._replace(rules=()), "no routing rule leads the mark 0x4/0x3c to table 7500"),
        (there._replace(routes=()), "the routing table 7500 is empty"),
        (
            carried_out(plan([WAY._replace(gateway=None, networks=())], Found(), exclusions=EXCLUSIONS)),
            "the routing table 7500 leads nowhere",
        ),
    ):
        broken = found.broken(mark, Family.IPV4, DEFAULT_SPACE)
        assert broken is not None
        assert broken.startswith(words)
    assert there.broken(mark, Family.IPV6, DEFAULT_SPACE) is not None


def test_two_ways_of_one_interface_are_told_apart_by_their_names() -> None:
    other = WAY._replace(mark=0x8, table=7501, key="eth1 via 172.16.0.9")
    there = carried_out(plan([WAY, other], Found(), exclusions=EXCLUSIONS))
    assert there.marks(DEFAULT_SPACE, names=["eth1", other.name]) == {"eth1": 0x4, other.name: 0x8}


def test_an_interface_that_has_gone_has_no_mark_by_name() -> None:
    there = carried_out(plan([WAY], Found(), exclusions=EXCLUSIONS))
    nameless = TableRoute(7500, networks("172.16.0.0/24")[0], UNICAST, 0, interface=7)
    assert there._replace(routes=(nameless,)).marks(DEFAULT_SPACE) == {}


def test_the_mark_of_a_shut_way_is_known_by_its_last_route() -> None:
    shut = WAY._replace(gateway=None, networks=())
    there = carried_out(plan([shut], Found(), exclusions=EXCLUSIONS))
    assert there.marks(DEFAULT_SPACE) == {}
    assert there.marks(DEFAULT_SPACE, names=["eth0", "eth1"]) == {"eth1": 0x4}
    # A renamed interface has its routes, and so the mark.
    renamed = TableRoute(7500, networks("172.16.0.0/24")[0], UNICAST, 0, interface="eth9")
    both = there._replace(routes=(*there.routes, renamed))
    assert both.marks(DEFAULT_SPACE, names=["eth1"]) == {"eth9": 0x4}
