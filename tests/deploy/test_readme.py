"""What README lists of the agent is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from kvctl.agent import collectors, lease_metrics
from kvctl.agent.metrics import Metrics
from kvctl.agent.notes import MEANINGS
from kvctl.agent.readiness import Reason
from tests.deploy.reading import DEPLOY, settings_of_the_code

README = (DEPLOY.parent / "README.md").read_text()
A_METRIC = re.compile(r"\bkvctl_[a-z_]+")


def metrics_of_the_code() -> set[str]:
    """Every metric by the name under which Prometheus has it."""
    text = Metrics(version="0").render().decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    shown = {name + "_total" if kind == "counter" else name for name, kind in families.items()}
    # Those that need something to count are not in the text yet.
    sources = [Path(str(module.__file__)).read_text() for module in (collectors, lease_metrics)]
    return shown | set(A_METRIC.findall("".join(sources)))


def test_every_event_is_in_the_table_with_its_meaning() -> None:
    table = re.findall(r"^\| `(\w+)` \| (Normal|Warning) \| (.*) \|$", README, re.MULTILINE)
    assert table == [(reason.value, m.type, m.words) for reason, m in MEANINGS.items()]


def test_every_metric_is_in_the_table_and_no_other() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `kvctl_")]
    listed = {name for row in rows for name in A_METRIC.findall(row.split("|")[1])}
    assert listed == metrics_of_the_code()
    assert set(A_METRIC.findall(README)) == listed


def test_every_setting_is_named() -> None:
    missing = {
        name for name in settings_of_the_code() if f"`{name}" not in README and f" {name}" not in README
    }
    assert missing == set()


def test_reasons_of_the_condition_that_are_explained_exist() -> None:
    explained = set(re.findall(r"\(gate: `(\w+)`\)", README)) | set(re.findall(r"gate:\n`(\w+)`", README))
    assert explained == {Reason.VIP_ELSEWHERE, Reason.TRAFFIC_DROPPED}


def test_every_component_is_explained() -> None:
    explained = set(re.findall(r"^ +\| `([a-z-]+)`(?: \(on\))? \|", README, re.MULTILINE))
    assert explained == {component.name for component in (DEPLOY / "components").iterdir()}


def test_every_example_is_named() -> None:
    named = set(re.findall(r"deploy/examples/([a-z-]+\.yaml)", README))
    assert named == {example.name for example in (DEPLOY / "examples").iterdir()}
