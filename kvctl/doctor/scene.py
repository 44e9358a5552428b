"""What is read once, for all checks."""

from __future__ import annotations

from typing import NamedTuple

from kvctl.doctor.privileges import Privileges, read_privileges
from kvctl.errors import KvctlError
from kvctl.model.host import Host
from kvctl.model.objects import Objects
from kvctl.model.settings import Settings
from kvctl.netfilter.kernel import Reading, read_everything
from kvctl.node.host import read_host
from kvctl.node.routing import read_routing
from kvctl.node.routing_plan import Found
from kvctl.reconcile.look import Look, look
from kvctl.reconcile.wish import Wish


class Scene(NamedTuple):
    """This host as it was found."""

    settings: Settings
    told: bool | None
    """The back end by setting: true nft, false legacy, None nobody says."""
    reading: Reading
    look: Look | None
    """None: the rules could not be read."""
    blindness: KvctlError | None
    """Why not."""
    host: Host
    routing: Found
    """Routing rules and routes of kvctl's, and of others in their way."""
    privileges: Privileges
    objects: Objects | None = None
    """None: no source was named, or it did not answer."""
    silence: KvctlError | None = None
    """Why the source did not answer."""
    agent: str | None = None
    """The agent that lives in this network namespace, in words."""
    wish: Wish | None = None
    """What the source wants of this node; None: as `objects`."""
    again: str = "-f FILE"
    """The options by which `apply` reads the same source, or one that is to be named."""

    def apply(self, *options: str) -> str:
        """The command that writes the rules again, or who does so."""
        if self.agent is not None and not options:
            return "the agent of this node does so by itself within a minute; if not, see its log"
        return " ".join(filter(None, ("kvctl egress apply", *options, self.again)))

    @property
    def led_out_by(self) -> frozenset[str]:
        """The interfaces that traffic is led out by with a mark."""
        return frozenset(self.routing.marks(self.settings.space))


def read_scene(
    *,
    settings: Settings,
    told: bool | None,
    objects: Objects | None = None,
    silence: KvctlError | None = None,
    agent: str | None = None,
    wish: Wish | None = None,
    again: str = "-f FILE",
) -> Scene:
    """Look at everything. Raises KvctlError where this host's addresses cannot be read either."""
    reading = read_everything()
    found, blindness = None, None
    try:
        found = look(told=told, read=lambda: reading)
    except KvctlError as error:
        blindness = error
    return Scene(
        settings=settings,
        told=told,
        reading=reading,
        look=found,
        blindness=blindness,
        host=read_host(),
        routing=read_routing(settings.space),
        privileges=read_privileges(),
        objects=objects,
        silence=silence,
        agent=agent,
        wish=wish,
        again=again,
    )
