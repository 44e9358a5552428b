"""How `kvctl egress apply` has to be typed, for messages that say that it mends something."""

from __future__ import annotations

import shlex

from kvctl.cli.inputs import Inputs
from kvctl.reconcile.problems import Mend

_LONGEST = 60
"""Characters of files that a sentence still bears."""
_ANY_FILE = "-f FILE"


def mend_by(inputs: Inputs) -> Mend:
    """With the source that was given; with a file to be named where none was, and no cluster is configured."""
    if inputs.filenames:
        given = " ".join(f"-f {shlex.quote(name)}" for name in inputs.filenames)
        return Mend(given if len(given) <= _LONGEST and given.isprintable() else _ANY_FILE)
    named = (("--kubeconfig", inputs.kubeconfig), ("--context", inputs.context))
    given = " ".join(f"{option} {shlex.quote(value)}" for option, value in named if value)
    if given or inputs.ask_cluster:
        return Mend(given if len(given) <= _LONGEST and given.isprintable() else "")
    from kvctl.cluster.kubeconfig import is_configured

    return Mend("" if is_configured(kubeconfig=None, context=None) else _ANY_FILE)
