"""A container as the DaemonSet has it: the capabilities that it adds, and nothing to write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import kvctl
from tests.deploy.reading import BASE, daemonset, pod_spec

# Everything that is mounted becomes read-only, but for what a container has of its own, and other tests' namespaces.
_READ_ONLY = (
    "findmnt --noheadings --raw --output TARGET | grep -vE '^/(proc|sys|dev|run/netns)(/|$)' |"
    ' while read -r where; do mount -o remount,bind,ro "$where"; done; '
    "if touch /written; then exit 99; fi 2>/dev/null; "
    'exec "$@"'
)
KVCTL = (sys.executable, "-m", "kvctl")


def confined(*argv: str) -> list[str]:
    """The command line that runs `argv` so, in the network namespace it is called in."""
    (container,) = pod_spec(daemonset(BASE))["containers"]
    capabilities = ",".join(
        f"+{name.lower()}" for name in container["securityContext"]["capabilities"]["add"]
    )
    drop = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all"]
    return [
        *("unshare", "--mount", "--propagation", "private"),
        *("sh", "-ec", _READ_ONLY, "sh"),
        *drop,
        *argv,
    ]


def powerless(*argv: str) -> list[str]:
    """The command line that runs `argv` as nobody, without any capability."""
    return [
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all"),
        *argv,
    ]


def environment(**more: str) -> Mapping[str, str]:
    """This very kvctl, with these settings and no others."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("egress_", "vip_"))},
        "PYTHONPATH": str(Path(kvctl.__file__).parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


def make_lock_file() -> None:
    """FileOrCreate in the DaemonSet: kubelet makes the file, iptables only opens it."""
    Path(os.environ["XTABLES_LOCKFILE"]).touch()
