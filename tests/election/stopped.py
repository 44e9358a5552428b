"""A process that holds a Lease and says all the time whether it does, so that a test can stop it in between."""

from __future__ import annotations

import sys
import time

from kvctl.cluster.connection import open_connection
from kvctl.cluster.leases import Leases
from kvctl.election.electorate import Electorate
from tests.election.rig import KEY, QUICK, READY


def main(config: str) -> None:
    """Say `h` (held) or `-`, until somebody ends this process."""
    electorate = Electorate(
        Leases(open_connection(kubeconfig=config, context=None)),
        node="worker",
        terms=QUICK,
        notify=lambda: None,
        renewed=lambda holding: None,
        complain=lambda text: None,
    )
    electorate.start()
    electorate.contend({KEY: READY})
    while True:
        sys.stdout.write("h" if KEY in electorate.held() else "-")
        sys.stdout.flush()
        time.sleep(0.002)


if __name__ == "__main__":
    main(sys.argv[1])
