"""completions/ and man/: as they would be made now, fit for their readers, and installed where these look."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from kvctl.cli.examples import EXAMPLES
from kvctl.cli.help import Command, Group
from kvctl.cli.main import kvctl
from reference.commands import Page, pages
from reference.files import ROOT, files
from reference.manual import file_name

PAGES = pages()
MANUAL = sorted((ROOT / "man").glob("*.1"))


def test_what_is_generated_is_what_would_be_generated_now() -> None:
    stale = [str(path) for path, text in files().items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run scripts/generate"
    assert set(MANUAL) == {path for path in files() if path.suffix == ".1"}


def test_every_generated_file_is_installed_where_shells_and_man_look() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    installed = {
        path: f"{target}/{path.name}"
        for target, pattern in setup["options.data_files"].items()
        for path in ROOT.glob(pattern)
    }
    assert set(installed) == set(files())
    assert installed[ROOT / "completions" / "kvctl.bash"] == "share/bash-completion/completions/kvctl.bash"
    assert installed[ROOT / "completions" / "_kvctl"] == "share/zsh/site-functions/_kvctl"
    assert installed[ROOT / "completions" / "kvctl.fish"] == "share/fish/vendor_completions.d/kvctl.fish"
    assert installed[ROOT / "man" / "kvctl.1"] == "share/man/man1/kvctl.1"


def test_mandoc_has_nothing_against_the_manual() -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("there is no mandoc")
    done = subprocess.run(
        ["mandoc", "-T", "lint", *MANUAL], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def shown(path: Path) -> subprocess.CompletedProcess[str]:
    """The page as `man` shows it at 80 columns."""
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("there is no man")
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    return subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )


def test_man_shows_every_page_at_80_columns() -> None:
    for path in MANUAL:
        done = shown(path)
        assert done.stderr == "", path
        assert max(map(len, done.stdout.splitlines())) <= 80, path


def test_a_page_has_what_its_help_has() -> None:
    text = " ".join(shown(ROOT / "man" / "kvctl-egress-apply.1").stdout.split())
    for part in (
        "kvctl-egress-apply - make the kernel's rules what the objects ask for",
        "kvctl egress apply [OPTIONS] [SERVICE]...",
        "--pod-cidr CIDR A network of pods",
        "Environment: NODE_NAME, then vip_nodename. Default: the host name.",
        "egress_podcidr What --pod-cidr says, comma separated",
        "kvctl egress apply -f sip.yaml --dry-run",
        "130 Interrupted.",
        "--without-vip drop | node-address What",
        "kvctl-egress-flush(1)",
    ):
        assert part in text.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")


def test_a_value_that_has_brackets_of_its_own_keeps_them() -> None:
    text = (ROOT / "man" / "kvctl-egress-watch.1").read_text()
    assert r"\fB\-\-listen\fR \fI[ADDRESS]:PORT\fR" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_help_is_enough_and_fits_80_columns(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    command, context = click_command(page)
    assert isinstance(command, Command | Group), "declare it by click.command(cls=Command)"
    context.terminal_width = 80
    text = command.get_help(context)
    assert max(map(len, text.splitlines())) <= 80
    assert page.examples, "kvctl/cli/examples.py has none"
    for example in page.examples:
        for line in example.lines:
            assert line in text
    for option in page.options:
        assert option.text, f"{option.flags} has no help"


@pytest.mark.parametrize(
    ("path", "example"),
    [(path, example) for path, examples in EXAMPLES.items() for example in examples],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_command_takes_the_lines_of_its_examples(path: tuple[str, ...], example: object) -> None:
    line = getattr(example, "line").replace("\\\n", " ")  # noqa: B009
    for part in line.split("|"):
        words = part.partition(">")[0].split()
        if words[0] != "kvctl":
            continue
        command: click.Command = kvctl
        rest = words[1:]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), rest.pop(0))
            assert found is not None, line
            command = found
        command.make_context("kvctl", rest)


def test_there_is_a_page_for_every_command_and_examples_for_no_other() -> None:
    assert {path.name for path in MANUAL} == {file_name(page) for page in PAGES}
    assert set(EXAMPLES) <= {page.path for page in PAGES}


def click_command(page: Page) -> tuple[click.Command, click.Context]:
    command: click.Command = kvctl
    context = click.Context(command, info_name="kvctl", **kvctl.context_settings)
    for name in page.path:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command, context
