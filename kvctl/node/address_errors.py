"""Why an address cannot be bound, extended or removed, in words with the next step."""

from __future__ import annotations

import errno
from typing import NamedTuple

from kvctl.errors import KvctlError
from kvctl.model.net import Address
from kvctl.node.address_table import LONGEST_NAME, Refusal
from kvctl.node.rtnetlink import LABEL_SUFFIX

BIND = "cannot bind {address} to {interface}"
EXTEND = "cannot extend {address} on {interface}"
REMOVE = "cannot remove {address} from {interface}"


class AddressError(KvctlError):
    """An address could not be bound, extended or removed; `errno` is the kernel's answer, if it was asked."""

    def __init__(
        self, message: str, *, address: Address, interface: str, errno: int | None = None, hint: str | None
    ) -> None:
        super().__init__(message, hint=hint)
        self.address = address
        self.interface = interface
        self.errno = errno


class Attempt(NamedTuple):
    """What was to be done (BIND, EXTEND, REMOVE), with which address, where."""

    failing: str
    address: Address
    interface: str

    def error(self, why: str, *, hint: str | None, errno: int | None = None) -> AddressError:
        """That it failed, and why."""
        message = self.failing.format(address=self.address, interface=self.interface)
        return AddressError(
            f"{message}: {why}", address=self.address, interface=self.interface, errno=errno, hint=hint
        )

    def refused(self, refusal: Refusal) -> AddressError:
        """The kernel did not do it."""
        return self.error(refusal.reason, hint=self._hint(refusal.errno), errno=refusal.errno)

    def over(self) -> AddressError:
        """It was to have gone by now."""
        return self.error("its time is over", hint="it is bound again when its Lease is held again")

    def needs_lifetime(self) -> AddressError:
        """An IPv6 address for ever, on a kernel before 5.18."""
        return self.error(
            "this kernel does not store whose an address is, so kvctl's are known by their lifetime, "
            "and this one has none",
            hint="use Linux 5.18, or bind it in election mode, which gives it a lifetime",
        )

    def needs_mark(self) -> AddressError:
        """An IPv4 address on an interface with a long name, on a kernel before 5.18."""
        return self.error(
            f"this kernel does not store whose an address is, and the label {self.interface}{LABEL_SUFFIX} "
            f"that would say so is longer than {LONGEST_NAME} characters",
            hint="use Linux 5.18, or a shorter name for the interface",
        )

    def _hint(self, number: int) -> str:
        if number == errno.EPERM:
            return "it takes the capability NET_ADMIN in this network namespace: run it as root"
        if number == errno.EACCES and self.address.version == 6:
            return f"is IPv6 off there? sysctl net.ipv6.conf.{self.interface}.disable_ipv6"
        if number == errno.EINVAL and self.address.version == 6:
            return f"IPv6 takes an MTU of 1280 or more: ip link show dev {self.interface}"
        if number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return "is this kernel without IPv6? ls /proc/sys/net/ipv6"
        return f"see what is there: ip addr show dev {self.interface}"
