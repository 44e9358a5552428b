"""Fixtures for tests on the real kernel: a lab of network namespaces a test, gone afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from kvctl.lab.build import Lab, built, sweep, unique_prefix
from kvctl.lab.netns import Namespace
from kvctl.lab.topology import BACKENDS, Topology, standard
from kvctl.model.net import Family

MakeLab = Callable[..., Lab]
MakeNamespace = Callable[[], Namespace]


@pytest.fixture(scope="session", autouse=True)
def _own_xtables_lock(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Legacy binaries take a lock file of the test run, not the host's (iptables(8), XTABLES_LOCKFILE)."""
    os.environ["XTABLES_LOCKFILE"] = str(tmp_path_factory.mktemp("lock") / "xtables.lock")


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_children() -> None:
    """Whoever runs the tests in the background (nohup, `&`) has these ignored, and so would all that they start."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


@pytest.fixture(scope="session")
def kernel() -> None:
    """Asked for by whatever makes namespaces: skips without root; removes what a killed run left."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    sweep("test")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the two back ends: `nft`, `legacy`."""
    name: str = request.param
    return name


@pytest.fixture(params=list(Family), ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Each of the two address families."""
    name: Family = request.param
    return name


@pytest.fixture
def make_lab(kernel: None) -> Iterator[MakeLab]:
    """`make_lab(topology)` or `make_lab(**arguments of standard)`: a lab that ends with the test."""
    with ExitStack() as stack:

        def make(topology: Topology | None = None, **arguments: object) -> Lab:
            wanted = standard(**arguments) if topology is None else topology  # type: ignore[arg-type]
            return stack.enter_context(built(wanted, prefix=unique_prefix("test")))

        yield make


@pytest.fixture
def lab(make_lab: MakeLab, backend: str) -> Lab:
    """The standard lab, on each back end."""
    return make_lab(backend=backend)


@pytest.fixture
def make_namespace(kernel: None) -> Iterator[MakeNamespace]:
    """`make_namespace()`: an empty namespace of its own with `lo` up, for tests that need no lab."""
    with ExitStack() as stack:

        def make() -> Namespace:
            namespace = Namespace(unique_prefix("test") + "ns")
            stack.callback(namespace.delete)
            namespace.create()
            namespace.batch(["link set lo up"])
            return namespace

        yield make


@pytest.fixture
def namespace(make_namespace: MakeNamespace) -> Namespace:
    """One empty namespace."""
    return make_namespace()
