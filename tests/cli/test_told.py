"""Events as `show` reads and words them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvctl.cli.inputs import Inputs
from kvctl.cli.told import Told, age, read_told
from kvctl.cluster.recent_events import RecentEvent
from kvctl.model.ref import ServiceRef
from kvctl.reconcile.report import Item, Status
from tests.apiserver import serving

REF = ServiceRef("sip", "sip-client")
ITEM = Item(REF.namespace, REF.name, None, None, Status.APPLIED)
NO_INPUTS = Inputs(None, None, None, None, (), (), (), ())
EVENT = RecentEvent(
    1000.0, "Warning", "VIPElsewhere", "the VIP is on worker-2", times=3, by="kvctl.io/egress"
)


def test_an_event_is_a_line_with_its_age() -> None:
    told = Told({REF: [EVENT]}, now=1180.4)
    assert list(told.lines(REF)) == [
        "  last Events",
        "    3m ago  Warning  VIPElsewhere by kvctl.io/egress: the VIP is on worker-2 (3 times)",
    ]
    assert told.json(REF) == [
        {
            "ageSeconds": 180,
            "type": "Warning",
            "reason": "VIPElsewhere",
            "message": "the VIP is on worker-2",
            "count": 3,
            "by": "kvctl.io/egress",
        }
    ]
    assert list(Told({REF: []}, now=0).lines(REF)) == ["  no Events"]


def test_what_a_tenant_writes_stays_on_its_line_and_moves_no_cursor() -> None:
    odd = EVENT._replace(
        reason="\x1b[2J" * 50, message="a\nsip/other ipv4: applied\r\x1b[1m", type="", at=None
    )
    lines = list(Told({REF: [odd]}, now=0).lines(REF))
    assert len(lines) == 2
    assert lines[1].isprintable()
    assert lines[1].startswith("    - ago  -  \\x1b[2J")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (1e6, "11d")]
)
def test_an_age_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_where_no_cluster_was_named_nothing_is_asked() -> None:
    assert read_told(NO_INPUTS, [ITEM]) is None
    assert read_told(NO_INPUTS._replace(filenames=("a.yaml",)), [ITEM]) is None


def test_where_events_are_forbidden_it_is_said_in_their_place(tmp_path: Path) -> None:
    with serving() as server:
        server.forbid("events")
        told = read_told(NO_INPUTS._replace(kubeconfig=server.kubeconfig(tmp_path / "config")), [ITEM])
    assert told is not None
    (line,) = told.lines(REF)
    assert line.startswith("  last Events: - (")
    assert "403 Forbidden" in line
    assert told.json(REF) is None
