"""A node whose addresses are told and changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvctl.lab.netns import Namespace
from tests.node.addressed import ADDRESSES, LINKS, ROUTES


@pytest.fixture
def node(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with two interfaces and an address of each family, and the test's thread inside."""
    # Else link-local addresses change some time later, when they prove to be unique.
    namespace.write_sysctls({f"ipv6/conf/{name}/accept_dad": "0" for name in ("all", "default")})
    namespace.batch([*LINKS, *ADDRESSES, *ROUTES])
    with namespace.entered():
        yield namespace


@pytest.fixture(params=[True, False], ids=["protocols", "before-5.18"])
def protocols(request: pytest.FixtureRequest) -> bool:
    """Whether the kernel stores whose an address is."""
    stores: bool = request.param
    return stores
