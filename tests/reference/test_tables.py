"""What the manual says of the words that stand in tables."""

from __future__ import annotations

import re

import pytest

from kvctl.reconcile.report import Status
from reference import tables, texts
from reference.commands import pages
from reference.files import ROOT
from reference.manual import manual

PAGES = {page.path: manual(page, pages()) for page in pages()}


@pytest.mark.parametrize("status", Status)
def test_the_page_of_list_explains_every_status(status: Status) -> None:
    _, _, section = PAGES["egress", "list"].partition(".SH STATUS\n")
    assert f".TP\n\\fB{status}\\fR\n" in section.partition(".SH")[0]


def test_the_page_of_list_explains_every_column() -> None:
    items = (ROOT / "kvctl" / "cli" / "items.py").read_text(encoding="utf-8")
    live = (ROOT / "kvctl" / "cli" / "live_list.py").read_text(encoding="utf-8")
    lists = re.findall(r'^        \("([A-Z]+)", lambda item', items, re.MULTILINE)
    titles = {*re.findall(r'Column\(\s*"([A-Z/]+)"', items + live), *lists}
    assert {"CONNS", "HOLDER", "ROUTE", "EXCLUDED", "NEW/S"} <= titles
    told = {title for titles_ in tables.COLUMNS for title in titles_.split(", ")}
    assert titles <= told


def test_the_other_pages_say_where_the_words_are_explained() -> None:
    for path in tables.REFERRING:
        assert "are explained in kvctl\\-egress\\-list(1)." in " ".join(PAGES[path].split())


def test_who_asks_by_a_script_is_told_that_list_and_show_do_not_tell_by_their_status() -> None:
    text = " ".join(PAGES["egress", "list"].split())
    assert "list and show end with 0 whatever they find" in text
    assert "kvctl egress diff, which ends with 3" in text
    assert texts.STATUSES["egress", "list"]["0"] != texts.ANY_STATUS["0"]


def test_the_page_of_the_group_has_the_exit_status_of_diff() -> None:
    _, _, section = PAGES["egress",].partition(".SH EXIT STATUS\n")
    assert "\\fB3\\fR\ndiff has found something to change." in section
