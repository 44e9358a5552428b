"""kvctl as it is, but it stops as if by SIGSTOP where it has just looked at the clock and is about to act by it.

    KVCTL_FAINTS=DIRECTORY python -m tests.agent.fainting egress watch …

Once for each time that there is a file NODE.PLACE in the directory, which goes. The places: `extend`, an address that
was read is about to be given a new lifetime; `beat-ipv4` and `beat-ipv6`, a heartbeat is about to be written.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kvctl.cli.main import main
from kvctl.errors import KvctlError
from kvctl.model.net import Family
from kvctl.netfilter import fence
from kvctl.node.address_table import AddressTable, Refusal
from kvctl.node.rtnetlink import AddressRow

DIRECTORY = "KVCTL_FAINTS"
EXTEND = "extend"
BEAT = {family: f"beat-{family}" for family in Family}


def faint(place: str) -> None:
    """Stop here, if that is wanted."""
    with suppress(FileNotFoundError):
        Path(os.environ[DIRECTORY], f"{os.environ['NODE_NAME']}.{place}").unlink()
        # Sent to the process it would be taken by another thread, and this one would go on for a while.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


if __name__ == "__main__":
    change, write = AddressTable.change, fence._write

    def change_late(self: AddressTable, rows: Sequence[AddressRow]) -> list[Refusal | None]:
        faint(EXTEND)
        return change(self, rows)

    def write_late(name: str, text: str, what: str) -> KvctlError | None:
        for family in Family:
            if text == fence._ENTRY[family]:
                faint(BEAT[family])
        return write(name, text, what)

    AddressTable.change = change_late  # type: ignore[method-assign]
    fence._write = write_late
    main()
