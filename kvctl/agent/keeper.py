"""Keeps this node's rules equal to what is asked for: the same run as `apply --prune`, again and again.

What the last run read is kept, so that a change is compared in memory and written once. Whenever somebody
else may have changed the kernel, or something failed, it is read anew: nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvctl.agent.pushback import Pushback
from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.objects import Objects
from kvctl.model.rules import HOOK_CHAIN, HOOK_CHAINS
from kvctl.model.settings import Settings
from kvctl.model.text import plural
from kvctl.netfilter.binaries import Backend
from kvctl.netfilter.lock import namespace_lock
from kvctl.node.host import read_host
from kvctl.policy.resolve import Resolver
from kvctl.reconcile.compare import Compared, compare
from kvctl.reconcile.converge import Connection, Outcome, connection_of
from kvctl.reconcile.leading import lead, sweep
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.run import Applied, apply, flush
from kvctl.reconcile.target import Scope
from kvctl.reconcile.wish import Wish

_EVERYTHING = Scope(prune=True)
_MOST_REMEMBERED = 65536

Written = Callable[[Sequence[Outcome]], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run of the keeper did."""

    applied: Applied
    wish: Wish
    objects: Objects
    contested: str | None = None
    """The sentence about a program that keeps undoing what is written, while repairs are put off."""
    routing_errors: tuple[KvctlError, ...] = ()
    """What could not be done about routes and routing rules."""
    routing_warnings: tuple[str, ...] = ()
    """What in this host's settings keeps answers from coming back by them."""


class Keeper:
    """For one thread. `told`: true nft, false legacy, None by the evidence on this host."""

    def __init__(
        self,
        *,
        settings: Settings,
        told: bool | None,
        keep_connections: bool,
        clock: Callable[[], float],
        lock_timeout: float = 10.0,
    ) -> None:
        self._settings = settings
        self._resolver = Resolver(settings, here_only=True)
        self._told = told
        self._keep_connections = keep_connections
        self._clock = clock
        self._lock_timeout = lock_timeout
        self._found: Look | None = None
        self._host: Host | None = None
        self._dropped: set[Connection] = set()
        self._had_ways = True
        """There may be routes and routing rules of ours: an agent before this one may have left some."""
        self.pushback = Pushback()

    @property
    def backend(self) -> Backend | None:
        """The back end in use; None before the first look."""
        return self._found.choice.backend if self._found is not None else None

    @property
    def why_backend(self) -> str:
        """Why that one."""
        return self._found.choice.why if self._found is not None else ""

    def host_changed(self) -> bool:
        """Read this host's addresses and routes anew; whether they are not what they were. Raises NetlinkError."""
        host = read_host()
        changed = host != self._host
        self._host = host
        return changed

    def reread(self) -> Host:
        """This host anew, after the agent itself has changed it. Raises NetlinkError."""
        self._host = read_host()
        return self._host

    @property
    def host(self) -> Host:
        """This host as it was last read. Raises NetlinkError."""
        if self._host is None:
            self._host = read_host()
        return self._host

    def keep(
        self,
        objects: Objects,
        *,
        read_kernel: bool,
        asked: bool,
        host: Host | None = None,
        written: Written = lambda outcomes: None,
    ) -> Kept:
        """Make the kernel so. Raises KvctlError where nothing could be done at all.

        `read_kernel`: others may have changed it. `asked`: the cluster or the host has changed, so that even
        a program that keeps undoing it is no reason to wait. `host`: as the rules are to see it. `written` hears what
        came of it as soon as the rules are in the kernel, or are put off.
        """
        host = self.host if host is None else host
        resolution = self._resolver.resolve(objects, host=host)
        if resolution.node_is_unknown:
            raise _unknown_node(self._settings, objects)
        led = lead(resolution, host=host, space=self._settings.space)
        resolution = led.resolution
        wish = Wish(resolution=resolution, scope=_EVERYTHING, settings=self._settings, host=host)
        found, self._found = self._found, None
        with namespace_lock(timeout=self._lock_timeout):
            if found is None or read_kernel:
                found = look(told=self._told, expect=wish.expected)
            else:
                found.renew()
            errors = led.open() if led.ways else []
            kept = self._keep(
                found, wish, objects, asked=asked, check_connections=read_kernel, written=written
            )
            if (led.ways or self._had_ways) and not _failed(kept.applied):
                errors += led.close()
            self._had_ways = bool(led.ways or errors)
        if errors or led.warnings:
            kept = replace(kept, routing_errors=tuple(errors), routing_warnings=led.warnings)
        if not _failed(kept.applied):
            self._found = found
        return kept

    def _keep(
        self,
        found: Look,
        wish: Wish,
        objects: Objects,
        *,
        asked: bool,
        check_connections: bool,
        written: Written,
    ) -> Kept:
        now = self._clock()
        if not asked and self.pushback.seconds_left(now=now) > 0:
            compared = compare(found, wish, scope=_EVERYTHING)
            if _is_pushed(compared):
                written(())
                waiting = Applied(found=found, before=compared, after=compared)
                return Kept(waiting, wish, objects, self._contested(put_off=True))
        applied = apply(
            found,
            wish,
            drop_connections=not self._keep_connections,
            check_connections=check_connections,
            spared=self._dropped,
            written=written,
        )
        self._remember(applied)
        if not asked and _is_pushed(applied.before):
            self.pushback.repaired(now=now)
        else:
            self.pushback.quiet(now=now)
        contested = self._contested(put_off=False) if self.pushback.is_fight else None
        return Kept(applied, wish, objects, contested)

    def _remember(self, applied: Applied) -> None:
        """A connection is dropped once under the same rules: one that comes back wrong has it from somebody else."""
        if applied.restores:
            self._dropped.clear()
        for outcome in applied.outcomes:
            self._dropped.update(map(connection_of, outcome.dropped[:_MOST_REMEMBERED]))
            if outcome.returned:
                outcome.warnings.append(
                    f"{plural(len(outcome.returned), 'connection')} ({outcome.family}) came back with the wrong source "
                    "after being dropped: something sets it before kvctl's rules; left alone now"
                )
        if len(self._dropped) > 2 * _MOST_REMEMBERED:
            self._dropped.clear()

    def _contested(self, *, put_off: bool) -> str:
        left = self.pushback.seconds_left(now=self._clock())
        done = "kvctl's comes first again" if not put_off else "pods may leave with another address meanwhile"
        return (
            f"another program keeps changing {HOOK_CHAIN} so that kvctl's jump does not come first: {done}; "
            f"the next repair is in {left:.0f} s at the earliest"
        )

    def remove_everything(self) -> Applied:
        """Remove all rules of ours, and the connections they gave a source. Raises KvctlError."""
        self._found = None
        with namespace_lock(timeout=self._lock_timeout):
            found = look(told=self._told)
            flushed = flush(found, None, host=read_host(), drop_connections=not self._keep_connections)
            for error in sweep(self._settings.space):
                raise error
            return flushed


def _failed(applied: Applied) -> bool:
    return any(outcome.errors for outcome in applied.outcomes)


def _unknown_node(settings: Settings, objects: Objects) -> KvctlError:
    names = sorted(node.name for node in objects.nodes)
    there = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "none at all"
    return KvctlError(
        f"the cluster has no Node {settings.node} (it has {there}): nobody can tell which pods are here, "
        "so the rules are left as they are",
        hint="set NODE_NAME (or --node) to this node's name, as the DaemonSet does by spec.nodeName",
    )


def _is_pushed(compared: Compared) -> bool:
    """Whether all that is wrong is the place of our jump: what a program does that wants the same place."""
    changes = compared.changes()
    return bool(changes) and all(change.chain in HOOK_CHAINS for _, change in changes)
