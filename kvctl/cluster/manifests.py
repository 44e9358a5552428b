"""Manifests -> objects: JSON or YAML, files or standard input, lists unrolled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from kvctl.cluster.collect import ObjectsBuilder
from kvctl.cluster.fields import describe
from kvctl.cluster.yaml_values import yaml_values
from kvctl.errors import InputError, UsageError
from kvctl.model.objects import Objects
from kvctl.model.text import quote

STANDARD_INPUT = "-"
LARGEST_JSON = 256 * 2**20
LARGEST_YAML = 32 * 2**20
"""In bytes. YAML of the same size takes many times as long."""
DEEPEST_LIST = 8

_BLANK = " \t\r\n"
_BYTE_ORDER_MARKS = ((b"\xff\xfe", "UTF-16 or UTF-32"), (b"\xfe\xff", "UTF-16"), (b"\0\0\xfe\xff", "UTF-32"))


def read_manifests(paths: Sequence[str], *, stdin: BinaryIO) -> Objects:
    """The objects in the files at `paths`, `-` being `stdin`; of equal names the last one counts.

    Malformed objects are left out and stand in `errors`. Raises InputError where a file cannot be read
    or is neither JSON nor YAML, and UsageError for a second `-`.
    """
    if sum(path == STANDARD_INPUT for path in paths) > 1:
        raise UsageError(
            "cannot read standard input twice: -f - was given more than once", hint="give it once"
        )
    builder = ObjectsBuilder(from_api=False)
    for path in paths:
        name = "standard input" if path == STANDARD_INPUT else _shown(path)
        text = _decoded(_content(path, name=name, stdin=stdin), name=name)
        if not text.strip(_BLANK):
            raise InputError(f"{name}: it is empty", hint="check the command or file that it comes from")
        some = False
        for value in _documents(text, name=name):
            some = some or value is not None
            _take(builder, value, name=name)
        if not some:
            raise InputError(
                f"{name}: it holds no object", hint="check the command or file that it comes from"
            )
    return builder.build()


def _shown(path: str) -> str:
    """A path for messages: plain where it is harmless, quoted where it is not."""
    return path if path.isascii() and path.isprintable() and len(path) <= 200 else quote(path)


def _content(path: str, *, name: str, stdin: BinaryIO) -> bytes:
    try:
        if path == STANDARD_INPUT:
            content = _read(stdin)
        else:
            with open(path, "rb") as file:
                content = _read(file)
    except IsADirectoryError as error:
        raise InputError(f"{name}: it is a directory", hint="name the files in it, each with -f") from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file", hint="check the path given to -f") from error
    except PermissionError as error:
        raise InputError(f"{name}: no permission to read it", hint="run as a user who may read it") from error
    except (OSError, ValueError) as error:
        why = (
            os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a readable path"
        )
        raise InputError(f"{name}: cannot read it: {why}", hint="check the path given to -f") from error
    if len(content) > LARGEST_JSON:
        raise InputError(
            f"{name}: larger than {LARGEST_JSON >> 20} MiB", hint="split it, or read the cluster"
        )
    return content


def _read(stream: BinaryIO) -> bytes:
    """All of `stream`, or more than LARGEST_JSON bytes of it."""
    content = bytearray()
    while len(content) <= LARGEST_JSON and (chunk := stream.read(2**20)):
        content += chunk
    return bytes(content)


def _decoded(content: bytes, *, name: str) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise InputError(f"{name}: it is {encoding}, not UTF-8", hint="save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}: line {line} is not valid UTF-8", hint="save it as UTF-8") from error
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise InputError(f"{name}: line {line} holds a NUL byte", hint="give JSON or YAML text in UTF-8")
    return text


def _documents(text: str, *, name: str) -> Iterator[object]:
    """The values in `text`. What begins like JSON is JSON; only after a `---` may YAML follow."""
    if text.lstrip(_BLANK)[:1] in ("{", "["):
        values = _json_values(text, name=name)
        if values is not None:
            yield from values
            return
    if len(text) > LARGEST_YAML:
        hint = "use JSON (kubectl get -o json), which may be larger"
        raise InputError(f"{name}: larger than {LARGEST_YAML >> 20} MiB of YAML", hint=hint)
    yield from yaml_values(text, name=name)


def _json_values(text: str, *, name: str) -> list[object] | None:
    """The JSON values standing one after the other in `text`; None if YAML follows a `---` between them."""
    decoder = json.JSONDecoder(parse_int=_int)
    values: list[object] = []
    at, separated = 0, False
    while (at := _next(text, at)) < len(text):
        if values and text.startswith("---", at):
            at, separated = at + len("---"), True
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if separated:
                return None
            where = f"line {error.lineno} column {error.colno}"
            hint = "mend the file; was the output of a command cut off?"
            raise InputError(f"{name}: not valid JSON at {where}: {error.msg}", hint=hint) from error
        except RecursionError as error:
            raise InputError(f"{name}: the JSON is nested too deeply", hint="mend the file") from error
        values.append(value)
    return values


def _next(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _int(digits: str) -> int | float:
    # Python refuses to convert more than 4300 digits, with an error that is no JSON error.
    return int(digits) if len(digits) < 1000 else float("inf")


def _take(
    builder: ObjectsBuilder,
    value: object,
    *,
    name: str,
    kind: str | None = None,
    api_version: str | None = None,
    depth: int = 0,
) -> None:
    """Give `value` to the builder, or the items of a list one by one."""
    if depth > DEEPEST_LIST:
        raise InputError(f"{name}: lists within lists, {depth} deep", hint="give the objects in one list")
    if isinstance(value, list):
        for item in value:
            _take(builder, item, name=name, kind=kind, api_version=api_version, depth=depth + 1)
        return
    if isinstance(value, dict) and (list_kind := _list_kind(value)) is not None:
        items, version = value.get("items"), value.get("apiVersion")
        if items is not None and not isinstance(items, list):
            what = f"{name}: items of a list is {describe(items)}, not a list"
            raise InputError(what, hint="give kind: List with items as kubectl get -o json prints it")
        item_kind = list_kind.removesuffix("List") or None
        for item in items or ():
            _take(
                builder,
                item,
                name=name,
                kind=item_kind,
                api_version=version if item_kind and isinstance(version, str) else None,
                depth=depth + 1,
            )
        return
    if value is not None or depth:
        builder.add(value, kind=kind, api_version=api_version, origin=name)


def _list_kind(value: dict[str, object]) -> str | None:
    """The kind if it is that of a list: `List`, or any `...List` that has items."""
    kind = value.get("kind")
    if isinstance(kind, str) and (kind == "List" or (kind.endswith("List") and "items" in value)):
        return kind
    return None
