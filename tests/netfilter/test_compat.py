"""What nf_tables says of iptables' matches and targets, on the real kernel."""

from __future__ import annotations

import pytest

from kvctl.lab.netns import Namespace
from kvctl.model.net import Family
from kvctl.netfilter.compat import Kind, has_extension


@pytest.mark.parametrize(
    ("name", "kind"), [("comment", Kind.MATCH), ("conntrack", Kind.MATCH), ("SNAT", Kind.TARGET)]
)
def test_the_kernel_has_what_rules_use(namespace: Namespace, family: Family, name: str, kind: Kind) -> None:
    with namespace.entered():
        assert has_extension(name, kind, family)


def test_it_has_nothing_of_an_unknown_name_kind_or_revision(namespace: Namespace, family: Family) -> None:
    with namespace.entered():
        assert not has_extension("nosuch", Kind.MATCH, family)
        assert not has_extension("comment", Kind.TARGET, family)
        assert not has_extension("comment", Kind.MATCH, family, revision=200)
