"""A host on which egress works, on each back end."""

from __future__ import annotations

import pytest

from tests.conftest import MakeNamespace
from tests.doctor.host import TOLD, WANTED, prepare
from tests.robustness.node import Node


@pytest.fixture
def bare(make_namespace: MakeNamespace) -> Node:
    """A host without a rule."""
    namespace = make_namespace()
    prepare(namespace)
    return Node(namespace, settings=TOLD)


@pytest.fixture
def node(make_namespace: MakeNamespace, backend: str) -> Node:
    """A host with a Service that is programmed and works."""
    namespace = make_namespace()
    prepare(namespace)
    node = Node(namespace, backend=backend, settings=TOLD)
    node.apply(WANTED)
    return node
