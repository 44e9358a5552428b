"""Patches as values: what they make of an object, and which of them are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kvctl.lab.api.kinds import Kind, Object, kind_of
from kvctl.lab.api.patches import JSON, MERGE, STRATEGIC, patched
from kvctl.lab.api.refusals import FaultyRequestError, RefusedError

POD: Object = {
    "metadata": {"name": "p", "annotations": {"a/b": "1", "c~d": "2"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
}


def after(patch: Any, content_type: str, *, kind: Kind | None = None) -> Object:
    """The Pod after a patch; it is the same as before itself."""
    before = copy.deepcopy(POD)
    try:
        return patched(kind or kind_of("pods"), before, patch, content_type=content_type)
    finally:
        assert before == POD


def test_a_strategic_patch_merges_conditions_by_type_and_a_merge_patch_replaces_the_list() -> None:
    patch = {
        "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "New", "status": "True"}]}
    }
    assert after(patch, STRATEGIC)["status"]["conditions"] == [
        {"type": "Ready", "status": "False"},
        {"type": "Other", "status": "False"},
        {"type": "New", "status": "True"},
    ]
    assert after(patch, MERGE)["status"] == patch["status"]


@pytest.mark.parametrize(
    ("path", "left"),
    [("/metadata/annotations/a~1b", {"c~d": "2"}), ("/metadata/annotations/c~0d", {"a/b": "1"})],
)
def test_a_pointer_may_name_members_with_slashes_and_tildes(path: str, left: dict[str, str]) -> None:
    assert after([{"op": "remove", "path": path}], JSON)["metadata"]["annotations"] == left


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "test", "path": "/metadata/name", "value": "q"}],
        [{"op": "test", "path": "/metadata/other", "value": None}],
        [{"op": "remove", "path": "/metadata/other"}],
        [{"op": "remove", "path": "/metadata/name/first"}],
        # The first has been done when the second fails: all or nothing.
        [{"op": "remove", "path": "/metadata/name"}, {"op": "test", "path": "/metadata/name", "value": "p"}],
    ],
)
def test_a_json_patch_whose_test_fails_is_refused_and_is_no_fault_of_the_client(patch: object) -> None:
    with pytest.raises(RefusedError) as refused:
        after(patch, JSON)
    assert refused.value.code == 422
    assert not isinstance(refused.value, FaultyRequestError)


@pytest.mark.parametrize(
    ("patch", "content_type", "resource", "code"),
    [
        ({}, JSON, "pods", 400),
        ([{"op": "move", "path": "/a", "from": "/b"}], JSON, "pods", 400),
        ([{"op": "remove", "path": "metadata"}], JSON, "pods", 400),
        ([], MERGE, "pods", 400),
        ({}, "application/json", "pods", 415),
        ({}, STRATEGIC, "servicel2statuses", 415),
    ],
)
def test_what_is_no_patch_is_a_fault_of_the_client(
    patch: object, content_type: str, resource: str, code: int
) -> None:
    with pytest.raises(FaultyRequestError) as refused:
        after(patch, content_type, kind=kind_of(resource))
    assert refused.value.code == code
