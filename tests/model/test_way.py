"""The bits, tables and priorities that settings may ask for."""

from __future__ import annotations

import pytest

from kvctl.errors import UsageError
from kvctl.model.way import DEFAULT_SPACE, MarkSpace, mark_space


def test_fifteen_interfaces_fit_into_the_default() -> None:
    assert DEFAULT_SPACE.capacity == 15
    assert (DEFAULT_SPACE.marks[0], DEFAULT_SPACE.marks[-1]) == (0x4, 0x3C)
    assert (DEFAULT_SPACE.table(0x4), DEFAULT_SPACE.table(0x3C)) == (7500, 7514)


@pytest.mark.parametrize("others", [0x1, 0x40, 0x80, 0x0F00, 0x2000, 0x4000, 0x8000, 0xFFFF0000])
def test_the_default_mask_leaves_the_bits_of_others_alone(others: int) -> None:
    assert DEFAULT_SPACE.mask & others == 0


@pytest.mark.parametrize("mask", [0x3, 0x3C, 0xFF, 0xFF000000])
def test_two_to_eight_neighbouring_bits_make_a_mask(mask: int) -> None:
    found = mark_space(mask=mask, first_table=1000, priority=100)
    assert found == MarkSpace(mask, 1000, 100)
    assert all(mark & ~mask == 0 for mark in found.marks)
    assert len(set(found.marks)) == found.capacity


@pytest.mark.parametrize("mask", [0, -4, 0x1, 0x5, 0x1FF, 1 << 32])
def test_other_masks_are_refused(mask: int) -> None:
    with pytest.raises(UsageError, match="egress_fwmark_mask"):
        mark_space(mask=mask, first_table=7500, priority=7500)


@pytest.mark.parametrize("table", [0, -1, 240, 255, 1 << 32])
def test_a_table_of_the_kernels_is_refused(table: int) -> None:
    with pytest.raises(UsageError, match="egress_route_table"):
        mark_space(mask=0x3C, first_table=table, priority=7500)


@pytest.mark.parametrize("priority", [0, -1, 32764, 40000])
def test_a_priority_after_the_main_tables_is_refused(priority: int) -> None:
    with pytest.raises(UsageError, match="egress_rule_priority"):
        mark_space(mask=0x3C, first_table=7500, priority=priority)
