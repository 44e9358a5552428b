"""Files and standard input: every text ends in objects or in an InputError that says where."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kvctl.cluster import manifests, yaml_values
from kvctl.cluster.manifests import read_manifests
from kvctl.errors import InputError, UsageError
from kvctl.model.objects import Objects

NOTHING = io.BytesIO()


def read(text: str | bytes) -> Objects:
    content = text.encode() if isinstance(text, str) else text
    return read_manifests(["-"], stdin=io.BytesIO(content))


def refused(text: str | bytes) -> InputError:
    with pytest.raises(InputError) as error:
        read(text)
    assert error.value.hint
    return error.value


def pod(name: str = "p", **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, **more}


def names(objects: Objects) -> list[str]:
    return [p.name for p in objects.pods]


POD_JSON = json.dumps(pod())


@pytest.mark.parametrize(
    "text",
    [
        POD_JSON,
        f"\n\r\t {POD_JSON}\n\n",
        "\ufeff" + POD_JSON,
        f"---\n{POD_JSON}\n---\n",
        f"{POD_JSON}\n---\n",
        json.dumps([pod()]),
        yaml.safe_dump(pod()),
        yaml.safe_dump(pod()).replace("\n", "\r\n"),
        "# a comment\n---\n---\n" + yaml.safe_dump(pod()) + "...\n",
        json.dumps({"kind": "List", "apiVersion": "v1", "items": [pod()]}),
        json.dumps({"kind": "List", "items": [{"kind": "List", "items": [pod()]}]}),
        json.dumps({"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "p"}}]}),
        json.dumps(
            {"kind": "PodList", "apiVersion": "v1", "items": [pod()], "metadata": {"resourceVersion": "1"}}
        ),
    ],
)
def test_a_pod_is_found_in_every_form(text: str) -> None:
    objects = read(text)
    assert names(objects) == ["p"]
    assert objects.errors == ()
    assert not objects.from_api


@pytest.mark.parametrize(
    "text",
    [
        POD_JSON + json.dumps(pod("q")),
        POD_JSON + "\n---\n" + json.dumps(pod("q")),
        POD_JSON + "\n---\nkind: Pod\nmetadata: {name: q}\n",
        yaml.safe_dump_all([pod(), pod("q")]),
    ],
)
def test_documents_stand_one_after_the_other(text: str) -> None:
    assert names(read(text)) == ["p", "q"]


def test_an_emoji_of_json_survives_a_separator() -> None:
    text = json.dumps(pod(metadata={"name": "p", "labels": {"a": "\U0001f600"}}))
    assert read(f"{text}\n---\n{text}").pods[0].labels["a"] == "\U0001f600"


def test_several_sources_are_one_and_the_last_of_equal_names_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.yaml"
    first.write_text(json.dumps([pod("p", spec={"nodeName": "a"}), pod("q")]))
    second.write_text(yaml.safe_dump(pod("p", spec={"nodeName": "b"})))
    stdin = io.BytesIO(json.dumps(pod("r")).encode())
    objects = read_manifests([str(first), "-", str(second)], stdin=stdin)
    assert {p.name: p.node for p in objects.pods} == {"p": "b", "q": None, "r": None}


def test_standard_input_is_read_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        read_manifests(["-", "-"], stdin=NOTHING)


def test_an_empty_list_holds_nothing_and_is_no_error() -> None:
    assert read('{"kind": "List", "items": []}') == Objects()
    assert read('{"kind": "List", "items": null}') == Objects()
    assert read('{"kind": "List"}') == Objects()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "standard input: it is empty"),
        (" \n\t\r\n", "it is empty"),
        ("\ufeff", "it is empty"),
        ("# only a comment\n", "it holds no object"),
        ("---\n---\n", "it holds no object"),
        (POD_JSON[:-1], "not valid JSON at line 1 column"),
        ('{"a": 1,\n "b" 2}', "not valid JSON at line 2 column 6: Expecting ':' delimiter"),
        ("[" * 100_000, "the JSON is nested too deeply"),
        ('{"a":' * 100_000, "the JSON is nested too deeply"),
        (POD_JSON + "x", "not valid JSON at line 1"),
        ("a: [", "not valid YAML at line"),
        ("a: b: c", "not valid YAML at line 1 column 5"),
        ("\ta: b", "not valid YAML at line 1"),
        ("a: *b", "no anchor before it"),
        ("a: &a [*a]", "or lies within it"),
        ("&a a: {<<: *a}", "a merge key (<<) takes mappings"),
        ("? [a]\n: b", "a key is a list or a mapping"),
        ("a: " + "[" * 100_000, "nested deeper than 100 levels"),
        ("- " * 100_000, "nested deeper than 100 levels"),
        ("a: \x07", "not valid YAML"),
        ('a: "\\U99999999"', "not valid YAML"),
        (b"kind: \xff\xfe", "line 1 is not valid UTF-8"),
        (b"a: b\nkind: \xe9", "line 2 is not valid UTF-8"),
        ("a\0b", "line 1 holds a NUL byte"),
        ('{"kind": "List", "items": {}}', "items of a list is an object, not a list"),
        ('{"kind":"List","items":[' * 10 + "]}" * 10, "lists within lists"),
        ("[" * 20 + "]" * 20, "lists within lists"),
    ],
)
def test_text_that_cannot_be_read_is_refused_with_the_place(text: str | bytes, words: str) -> None:
    error = refused(text)
    assert error.message.startswith("standard input: ")
    assert words in error.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_other_encodings_are_refused(encoding: str, mark: str) -> None:
    error = refused((mark + POD_JSON).encode(encoding))
    assert "UTF-8" in f"{error.message} {error.hint}"


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 {x: 1, y: 2}\n"
        + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
        "a0: &a0 [x, x]\n"
        + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
        "a0: &a0 {kind: Pod, metadata: {name: p}}\n"
        + "".join(
            f"a{i + 1}: &a{i + 1} {{kind: List, items: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9)
        ),
    ],
)
def test_aliases_cannot_multiply_without_bound(text: str) -> None:
    assert "aliases stand for more than 1000000 values" in refused(text).message


def test_aliases_and_merge_keys_in_measure_work() -> None:
    text = """\
kind: List
items:
- &a {kind: Pod, apiVersion: v1, metadata: &m {name: p, labels: {app: a}}}
- {<<: *a, metadata: {<<: *m, name: q}}
- {<<: [{kind: Pod}, *a], metadata: {name: r}}
"""
    objects = read(text)
    assert {p.name: dict(p.labels) for p in objects.pods} == {"p": {"app": "a"}, "q": {"app": "a"}, "r": {}}


def test_plain_text_that_yaml_would_take_for_something_else_stays_text() -> None:
    text = """\
kind: Pod
metadata:
  name: p
  creationTimestamp: 2026-01-02T03:04:05Z
  labels: {date: 2026-01-02, ports: 10:20, sign: =, text: !!str 5, quoted: 'true', word: nope, six: fd00::1}
"""
    (it,) = read(text).pods
    assert it.created == 1767323045
    assert dict(it.labels) == {
        "date": "2026-01-02",
        "ports": "10:20",
        "sign": "=",
        "text": "5",
        "quoted": "true",
        "word": "nope",
        "six": "fd00::1",
    }


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("true", "true"),
        ("No", "false"),
        ("5060", "5060"),
        ("0x10", "16"),
        ("1_0", "10"),
        ("1.5", "1.5"),
        ("1e3", "1000.0"),
        (".inf", "Infinity"),
        ("~", "empty"),
        ("", "empty"),
        ("[a]", "a list"),
        ("9" * 5000, "Infinity"),
    ],
)
def test_an_annotation_that_is_not_text_is_refused(plain: str, shown: str) -> None:
    text = f"kind: Service\nmetadata:\n  name: a\n  annotations:\n    kvctl.io/egress: {plain}\n"
    objects = read(text)
    (error,) = objects.errors
    assert error.message == (
        f"Service default/a in standard input: metadata.annotations[kvctl.io/egress] is {shown}, not text"
    )


def test_without_libyaml_the_same_is_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert names(read(yaml.safe_dump_all([pod(), pod("q")]))) == ["p", "q"]
    for text in ("a: [", "a: *b", "- " * 1000, "a: \x07", 'a: "\\U99999999"', "[" * 1000 + ":"):
        assert refused(text if text[0] != "[" else f"a: {text}").message.startswith(
            "standard input: not valid YAML"
        )


def test_tags_run_nothing() -> None:
    run = "!!python/object/apply:os.system ['exit 1']"
    text = f"kind: Pod\nmetadata: {{name: p, labels: {{a: {run}, b: !!binary YQ==}}}}"
    objects = read(text)
    assert objects.errors[0].message.endswith("metadata.labels[a] is a list, not text")


def test_entries_that_are_no_objects_are_errors_once_each_and_the_rest_is_good() -> None:
    objects = read(json.dumps({"kind": "List", "items": [pod(), 5, 5, "x", None, {}]}))
    assert names(objects) == ["p"]
    assert [error.message for error in objects.errors] == [
        "an entry in standard input: it is 5, not an object",
        'an entry in standard input: it is "x", not an object',
        "an entry in standard input: it is empty, not an object",
        "an object in standard input: kind is empty, not text",
    ]


@pytest.mark.parametrize("text", ["hello", "5", "- hello", '"x"'])
def test_a_file_of_another_sort_is_an_error(text: str) -> None:
    assert "not an object" in read(text).errors[0].message


def test_a_directory_a_missing_file_and_an_odd_path_are_named(tmp_path: Path) -> None:
    for path, words in (
        (str(tmp_path), f"{tmp_path}: it is a directory"),
        (str(tmp_path / "none"), "there is no such file"),
        (str(tmp_path / "a" / ".." / "b"), "there is no such file"),
        ("a\0b", "not a readable path"),
        (str(tmp_path / ("x" * 300)), "File name too long"),
        ("\x1b[31m\udcff", '"\\x1b[31m\\udcff": there is no such file'),
    ):
        with pytest.raises(InputError) as error:
            read_manifests([path], stdin=NOTHING)
        assert words in error.value.message
        assert error.value.hint


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal comes from a stream.
    class Refusing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(InputError, match="standard input: no permission"):
        read_manifests(["-"], stdin=Refusing())


def test_a_file_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "LARGEST_JSON", 3 * 2**20)
    with pytest.raises(InputError, match="/dev/zero: larger than 3 MiB"):
        read_manifests(["/dev/zero"], stdin=NOTHING)


def test_large_yaml_is_refused_in_favour_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "LARGEST_YAML", 2**20)
    blank = " " * 2**20
    error = refused(f"a: b{blank}\n")
    assert "1 MiB of YAML" in error.message
    assert names(read(POD_JSON + blank)) == ["p"]


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(POD_JSON.encode())
    try:
        assert names(read_manifests([f"/dev/fd/{reading}"], stdin=NOTHING)) == ["p"]
    finally:
        os.close(reading)


def outcome(text: str | bytes) -> Objects | None:
    """The objects, or None after an InputError; what is said about problems can be printed anywhere."""
    objects: Objects | None
    try:
        objects = read(text)
    except InputError as error:
        problems, objects = [error], None
    else:
        problems = list(objects.errors)
    for problem in problems:
        assert problem.message.isascii()
        assert problem.message.isprintable()
        assert problem.hint
    return objects


FIELDS = st.sampled_from(
    """kind apiVersion metadata name namespace labels annotations spec status items podIPs podIP ip nodeName
    clusterIPs type loadBalancer ingress endpoints addresses targetRef subsets cidrs podCIDRs containers
    command hostNetwork creationTimestamp kube-vip.io/egress kubernetes.io/service-name
    selector""".split()  # noqa: SIM905
)
WORDS = st.sampled_from(
    """Service Pod List PodList Node Endpoints EndpointSlice ServiceCIDR v1 discovery.k8s.io/v1 kube-system a
    10.0.0.1 fd00::1 10.0.0.0/16 kube-controller-manager --cluster-cidr true
    2026-01-02T03:04:05Z""".split()  # noqa: SIM905
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=30,
)
OBJECTS = st.fixed_dictionaries(
    {
        "kind": WORDS,
        "metadata": st.fixed_dictionaries({"name": WORDS}, optional={"labels": TREES, "annotations": TREES}),
    },
    optional={
        "apiVersion": WORDS,
        "spec": TREES,
        "status": TREES,
        "subsets": TREES,
        "endpoints": TREES,
        "items": TREES,
    },
)
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(st.binary(max_size=400))
def test_no_bytes_end_in_a_traceback(content: bytes) -> None:
    outcome(content)


@MANY
@given(st.text(alphabet="{}[]:,-&*!?|>'\"#%@`\n\t ab<~=1.", max_size=60))
def test_no_punctuation_ends_in_a_traceback(text: str) -> None:
    outcome(text)


@MANY
@given(TREES | OBJECTS)
def test_no_json_tree_ends_in_a_traceback(tree: Any) -> None:
    outcome(json.dumps(tree))


@MANY
@given(TREES | OBJECTS)
def test_yaml_gives_what_json_gives(tree: Any) -> None:
    # PyYAML writes the text 0E0 without quotes: to Kubernetes' own tools, and to us, that is a number.
    assume(re.search(r'"[-+]?[0-9]+[eE][-+]?[0-9]+"', json.dumps(tree)) is None)
    text = yaml.safe_dump(tree, allow_unicode=False, default_flow_style=None)
    try:
        (back,) = yaml_values.yaml_values(text, name="x")
    except InputError:
        # PyYAML writes surrogates and characters that libyaml does not read.
        return
    assert json.dumps(back, sort_keys=True) == json.dumps(tree, sort_keys=True)


@MANY
@given(st.lists(OBJECTS, max_size=6))
def test_every_object_is_read_or_refused_never_lost(several: list[Any]) -> None:
    objects = outcome(json.dumps({"kind": "List", "items": several}))
    assert objects is not None or any("items" in one for one in several)
    pods = {
        one["metadata"]["name"]
        for one in several
        if one["kind"] == "Pod" and one.get("apiVersion", "v1") == "v1"
    }
    if objects is not None and not any(one["kind"].endswith("List") for one in several):
        told = " ".join(error.message for error in objects.errors)
        for name in pods - {p.name for p in objects.pods}:
            assert f'"{name}"' in told or f"/{name}" in told
