"""Three ways to patch an object: JSON merge patch, strategic merge patch, JSON patch.

Sources: RFC 7386, RFC 6902, kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch;
status codes as staging/src/k8s.io/apiserver/pkg/endpoints/handlers/patch.go gives them.
"""

from __future__ import annotations

from typing import Any

from kvctl.lab.api.kinds import Kind, Object
from kvctl.lab.api.refusals import RefusedError, bad, unsupported

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"


def patched(kind: Kind, before: Object, patch: Any, *, content_type: str | None) -> Object:
    """The object after the patch; what the patch leaves is shared with `before`, which stays as it is.

    Raises RefusedError: 400 for what is no such patch, 415 for another content type, 422 where a JSON patch tests
    or removes what is not so.
    """
    if content_type == JSON:
        return _operated(before, patch)
    if content_type not in (MERGE, STRATEGIC) or (kind.custom and content_type == STRATEGIC):
        raise unsupported(content_type)
    if not isinstance(patch, dict):
        raise bad("a merge patch that is no object")
    merged: Object = _merged(before, patch, strategic=content_type == STRATEGIC)
    return merged


def _merged(base: Any, patch: Any, *, strategic: bool) -> Any:
    """Of the lists that a strategic patch merges by key, those of conditions, by `type`."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif strategic and key == "conditions":
            known = {each["type"]: each for each in result.get(key) or []}
            known |= {each["type"]: {**known.get(each["type"], {}), **each} for each in value}
            result[key] = list(known.values())
        else:
            result[key] = _merged(result.get(key), value, strategic=strategic)
    return result


def _operated(before: Object, patch: Any) -> Object:
    """`test` and `remove` on members of objects: one after the other, all or nothing."""
    if not isinstance(patch, list):
        raise bad("a JSON patch that is no list")
    after = before
    for operation in patch:
        match operation:
            case {"op": "test", "path": str(path), "value": wanted}:
                if _at(after, path) != wanted:
                    raise _untrue(f"the test of {path}")
            case {"op": "remove", "path": str(path)}:
                after = _without(after, _names(path))
            case _:
                raise bad(f"the operation {operation}: only test and remove are known here")
    return after


def _names(path: str) -> list[str]:
    """RFC 6901."""
    root, *names = path.split("/")
    if root or not names:
        raise bad(f"the path {path!r}")
    return [name.replace("~1", "/").replace("~0", "~") for name in names]


def _at(value: Any, path: str) -> Any:
    for name in _names(path):
        if not isinstance(value, dict) or name not in value:
            raise _untrue(path)
        value = value[name]
    return value


def _without(value: Any, names: list[str]) -> Any:
    name, *rest = names
    if not isinstance(value, dict) or name not in value:
        raise _untrue(name)
    if rest:
        return {**value, name: _without(value[name], rest)}
    return {key: each for key, each in value.items() if key != name}


def _untrue(what: str) -> RefusedError:
    return RefusedError(422, "Invalid", f"{what} does not hold")
