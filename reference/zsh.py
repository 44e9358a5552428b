"""Pages -> completions/_kvctl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reference.commands import Option, Page, first_sentence

_HEAD = """\
#compdef kvctl
# zsh completion for kvctl. Made by scripts/generate: do not edit.
#
# Commands, options and choices are in here. Only what is on this node or in the cluster is asked for:
# kvctl complete KIND -- WORD...

# Values of the kind $1, for the line as it is before the cursor.
_kvctl_values() {
  local -a found expl
  found=("${(@f)$(command kvctl complete $1 -- "${(@Q)kvctl_line}" 2>/dev/null </dev/null)}")
  found=("${(@)found:#}")
  _wanted $1 expl ${1%s} compadd -a found
}

# The program of kvctl lab exec, and what it takes.
_kvctl_program() {
  if [[ $words[1] == -- ]]; then
    shift words
    (( CURRENT-- ))
  fi
  _normal
}

_kvctl() {
  local -a kvctl_line=("${(@)words[1,CURRENT-1]}")
  _kvctl_at_kvctl
}
"""

_TAIL = """
_kvctl "$@"
"""


def script(pages: Iterable[Page]) -> str:
    """The text of the file."""
    return _HEAD + "\n".join(line for page in pages for line in _function(page)) + "\n" + _TAIL


def _function(page: Page) -> Iterator[str]:
    specs = [spec for option in page.options for spec in _specs(option)]
    yield f"\n{_name(page.name)}() {{"
    if page.commands:
        yield "  local curcontext=$curcontext state line ret=1"
        yield "  local -A opt_args"
        yield "  local -a subcommands=("
        yield from (f"    {_quoted(f'{name}:{_escaped(text)}')}" for name, text in page.commands)
        yield "  )"
        specs += [_quoted("1:command:{_describe command subcommands}"), _quoted("*:: :->rest")]
    for at, argument in enumerate(page.arguments, start=1):
        action = f"({' '.join(argument.choices)})" if argument.choices else _action(argument.offers)
        place = "*" if argument.repeatable else str(at)
        title = _escaped(argument.metavar.strip("[]."))
        specs.append(
            _quoted("*:::CMD:_kvctl_program" if argument.offers == "program" else f"{place}:{title}:{action}")
        )
    yield f"  _arguments {'-C ' if page.commands else ''}-s -S \\"
    yield " \\\n".join(f"    {spec}" for spec in specs) + (" && ret=0" if page.commands else "")
    if page.commands:
        yield "  if [[ $state == rest ]]; then"
        yield "    case $words[1] in"
        yield from (f"      {name}) {_name(f'{page.name} {name}')} && ret=0 ;;" for name, _ in page.commands)
        yield "    esac"
        yield "  fi"
        yield "  return ret"
    yield "}"


def _specs(option: Option) -> Iterator[str]:
    same = (*option.flags, *option.opposites)
    front = "*" if option.repeatable else f"({' '.join(same)})"
    value = ""
    if option.metavar is not None:
        action = f"({' '.join(option.choices)})" if option.choices else _action(option.offers)
        title = "|".join(option.choices) or option.metavar
        value = f":{_escaped(title)}:{action}"
    for flag in same:
        joins = ("=" if flag.startswith("--") else "+") if value else ""
        yield _quoted(f"{front}{flag}{joins}[{_escaped(first_sentence(option.text))}]{value}")


def _action(kind: str) -> str:
    """A blank in front: no arguments are put into the call."""
    if kind in ("files", "interfaces"):
        return "_files" if kind == "files" else "_net_interfaces"
    return f" _kvctl_values {kind}" if kind else " "


def _name(path: str) -> str:
    return f"_kvctl_at_{path.replace(' ', '_')}"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\[]:" else c for c in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
