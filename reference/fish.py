"""Pages -> completions/kvctl.fish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reference.commands import Option, Page, first_sentence

_HEAD = """\
# fish completion for kvctl. Made by scripts/generate: do not edit.
#
# Commands, options and choices are in here. Only what is on this node or in the cluster is asked for:
# kvctl complete KIND -- WORD...

# Whether the line is at the command $argv[1]; with $argv[2] also whether it has so many arguments: none, some.
function __kvctl_at
    set -l path kvctl
    set -l count none
    for word in (commandline -opc)[2..]
        if contains -- "$path $word" $__kvctl_paths
            set path "$path $word"
        else if not string match -q -- '-*' $word
            set count some
        end
    end
    test "$path" = "$argv[1]"; and begin
        test -z "$argv[2]"; or test "$count" = "$argv[2]"
    end
end

# Values of the kind $argv[1], for the line as it is before the cursor.
function __kvctl_values
    command kvctl complete $argv[1] -- (commandline -opc) 2>/dev/null </dev/null
end

function __kvctl_interfaces
    string replace -- /sys/class/net/ '' /sys/class/net/*
end

complete -c kvctl -f
"""


def script(pages: Iterable[Page]) -> str:
    """The text of the file."""
    every = list(pages)
    paths = " ".join(_quoted(page.name) for page in every)
    return (
        "\n".join(
            [_HEAD, f"set -g __kvctl_paths {paths}", *(line for page in every for line in _lines(page))]
        )
        + "\n"
    )


def _lines(page: Page) -> Iterator[str]:
    yield f"\n# {page.name}"
    at = f"complete -c kvctl -n {_quoted(f'__kvctl_at {_quoted(page.name)}')}"
    for name, text in page.commands:
        yield f"{at} -a {name} -d {_quoted(text)}"
    for argument in page.arguments:
        count = "" if argument.repeatable and argument.offers != "program" else " none"
        if argument.offers == "program":
            count = " some"
        here = f"complete -c kvctl -n {_quoted(f'__kvctl_at {_quoted(page.name)}{count}')}"
        if values := _values(argument.choices, argument.offers):
            yield f"{here} {values}"
    for option in page.options:
        yield f"{at} {_option(option)}"


def _option(option: Option) -> str:
    words = [f"-s {flag[1:]}" if len(flag) == 2 else f"-l {flag[2:]}" for flag in option.flags]
    words += [f"-l {flag[2:]}" for flag in option.opposites]
    if option.metavar is not None:
        words.append(
            "-r -F" if option.offers == "files" else f"-x {_values(option.choices, option.offers)}".strip()
        )
    return f"{' '.join(words)} -d {_quoted(first_sentence(option.text))}"


def _values(choices: tuple[str, ...], kind: str) -> str:
    if choices:
        return f"-a {_quoted(' '.join(choices))}"
    if kind == "files":
        return "-F"
    call = {"": "", "interfaces": "(__kvctl_interfaces)", "program": "(__fish_complete_command)"}
    found = call.get(kind, f"(__kvctl_values {kind})")
    return f"-a {_quoted(found)}" if found else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
