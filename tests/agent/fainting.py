"""kvctl as it is, but it stops as if by SIGSTOP when an address has been read and is about to be given a new lifetime.

    KVCTL_FAINTS=DIRECTORY python -m tests.agent.fainting egress watch …

Once for each time that there is a file of the node's name in the directory, which goes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kvctl.cli.main import main
from kvctl.node.address_table import AddressTable, Refusal
from kvctl.node.rtnetlink import AddressRow

DIRECTORY = "KVCTL_FAINTS"

if __name__ == "__main__":
    change = AddressTable.change

    def change_late(self: AddressTable, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        with suppress(FileNotFoundError):
            Path(os.environ[DIRECTORY], os.environ["NODE_NAME"]).unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return change(self, rows)

    AddressTable.change = change_late  # type: ignore[method-assign]
    main()
