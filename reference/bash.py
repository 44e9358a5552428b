"""Pages -> completions/kvctl.bash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reference.commands import Option, Page

_HEAD = """\
# bash completion for kvctl. Made by scripts/generate: do not edit.
#
# Commands, options and choices are in here. Only what is on this node or in the cluster is asked for:
# kvctl complete KIND -- WORD...

# What there is behind the command $1. A value is of a KIND that kvctl completes, :ONE,OF,THESE, files, interfaces,
# program, or - (anything).
_kvctl_about() {
    commands='' options='' values='' arguments=''
    case $1 in
"""

_TAIL = """\
    esac
}

# The kind of the value behind the option $1; empty: it takes none.
_kvctl_kind() {
    local pair
    kind=''
    for pair in $values; do
        [[ ${pair%%=*} == "$1" ]] && kind=${pair#*=}
    done
}

# Values of the kind $1 that begin with $2.
_kvctl_offer() {
    local value choices=${1#:}
    case $1 in
    :*) for value in ${choices//,/ }; do _kvctl_add "$value" "$2"; done ;;
    interfaces) for value in /sys/class/net/*; do _kvctl_add "${value##*/}" "$2"; done ;;
    files)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$2")
        ;;
    program) mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
    - | '') ;;
    *)
        while IFS= read -r value; do
            _kvctl_add "$value" "$2"
        done < <(command kvctl complete "$1" -- "${words[@]:0:${#words[@]}-1}" 2>/dev/null </dev/null)
        ;;
    esac
}

# Only what is a plain word to the shell: names come from others.
_kvctl_add() {
    [[ $1 == "$2"* && $1 =~ ^[A-Za-z0-9._:/@+-]+$ ]] && COMPREPLY+=("$1")
}

# The kind of the argument that comes after $1 others.
_kvctl_argument() {
    local -a kinds
    read -ra kinds <<<"$arguments"
    local last=$((${#kinds[@]} - 1))
    kind=''
    if (($1 <= last)); then
        kind=${kinds[$1]%...}
    elif ((last >= 0)) && [[ ${kinds[last]} == *... ]]; then
        kind=${kinds[last]%...}
    fi
}

_kvctl() {
    local IFS=$' \\t\\n' rest=${COMP_LINE:0:COMP_POINT} path=kvctl
    local commands options values arguments kind piece lead word cur head='' strip ended='' place=0 expects='' i
    local -a words=()
    COMPREPLY=()
    # bash splits words at : and =, too. What has no blank before it belongs to the word before.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        lead=${rest%%[![:space:]]*}
        rest=${rest#"$lead"}
        piece=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && piece=$rest
        rest=${rest#"$piece"}
        if [[ ! $lead && i -gt 0 && ( $piece || $i -lt $COMP_CWORD ) ]]; then
            words[${#words[@]} - 1]+=$piece
        else
            words+=("$piece")
        fi
    done
    cur=${words[${#words[@]} - 1]}
    [[ $piece == [:=]* ]] && piece=''
    strip=${cur%"$piece"}

    _kvctl_about "$path"
    for word in "${words[@]:1:${#words[@]}-2}"; do
        if [[ $expects ]]; then
            expects=''
        elif [[ $ended ]]; then
            ((place += 1))
        elif [[ $word == -- ]]; then
            ended=1
        elif [[ $word == -* ]]; then
            _kvctl_kind "$word"
            expects=$kind
        elif [[ " $commands " == *" $word "* ]]; then
            path+=" $word"
            _kvctl_about "$path"
        else
            ((place += 1))
            # What follows the name of a place is a program's own.
            [[ $arguments == *program* ]] && ended=1
        fi
    done

    if [[ $expects ]]; then
        _kvctl_offer "$expects" "$cur"
    elif [[ ! $ended && $cur == --*=* ]]; then
        head=${cur%%=*}=
        _kvctl_kind "${cur%%=*}"
        _kvctl_offer "$kind" "${cur#*=}"
    elif [[ ! $ended && $cur == -* ]]; then
        for word in $options; do _kvctl_add "$word" "$cur"; done
    elif [[ $commands ]]; then
        for word in $commands; do _kvctl_add "$word" "$cur"; done
    else
        _kvctl_argument "$place"
        _kvctl_offer "$kind" "$cur"
    fi
    COMPREPLY=("${COMPREPLY[@]/#/"$head"}")
    COMPREPLY=("${COMPREPLY[@]#"$strip"}")
}

complete -F _kvctl kvctl
"""


def script(pages: Iterable[Page]) -> str:
    """The text of the file."""
    return _HEAD + "\n".join(line for page in pages for line in _about(page)) + "\n" + _TAIL


def _about(page: Page) -> Iterator[str]:
    yield f"    '{page.name}')"
    if page.commands:
        yield f"        commands='{' '.join(name for name, _ in page.commands)}'"
    flags = [flag for option in page.options for flag in (*option.flags, *option.opposites)]
    yield f"        options='{' '.join(flags)}'"
    values = [f"{flag}={_kind(option)}" for option in page.options for flag in option.flags if option.metavar]
    if values:
        yield f"        values='{' '.join(values)}'"
    if page.arguments:
        kinds = [
            (f":{','.join(a.choices)}" if a.choices else a.offers or "-") + "..." * a.repeatable
            for a in page.arguments
        ]
        yield f"        arguments='{' '.join(kinds)}'"
    yield "        ;;"


def _kind(option: Option) -> str:
    return f":{','.join(option.choices)}" if option.choices else option.offers or "-"
