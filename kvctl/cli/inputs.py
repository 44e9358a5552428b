"""What a command is asked about: the options that say where objects come from and how they are judged, as one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

from kvctl.cli import options
from kvctl.cli.settings import parse_services, read_settings
from kvctl.model.ref import ServiceRef

if TYPE_CHECKING:
    from kvctl.cli.node import Wanted
    from kvctl.model.objects import Objects
    from kvctl.model.settings import Settings
    from kvctl.reconcile.target import Scope

Command = Callable[..., int]


class Inputs(NamedTuple):
    """The shared options as they were given."""

    kubeconfig: str | None
    context: str | None
    node: str | None
    interface: str | None
    pod_cidrs: Sequence[str]
    service_cidrs: Sequence[str]
    exclude_cidrs: Sequence[str]
    vip_ranges: Sequence[str]
    filenames: Sequence[str] = ()
    without_vip: str | None = None
    assume_vip: bool | None = None
    ask_cluster: bool = False

    @property
    def name_a_source(self) -> bool:
        """Whether the command line itself says where to read objects; the environment does not count."""
        return bool(self.filenames or self.ask_cluster or self.kubeconfig or self.context)

    def services(self, names: Sequence[str], *, namespace: str | None) -> frozenset[ServiceRef] | None:
        """The Services named on the command line; None: all."""
        return parse_services(names, namespace=namespace, kubeconfig=self.kubeconfig, context=self.context)

    def settings(self, *, only_here: bool = True) -> Settings:
        """Flag, else environment, else default; `only_here`: without --node only this node's pods count."""
        networks = {
            "pod_cidrs": self.pod_cidrs,
            "service_cidrs": self.service_cidrs,
            "exclude_cidrs": self.exclude_cidrs,
            "vip_ranges": self.vip_ranges,
        }
        return read_settings(
            networks,
            node=self.node,
            only_here=only_here,
            interface=self.interface,
            assume_vip=self.assume_vip,
            without_vip=self.without_vip,
        )

    def objects(self) -> Objects:
        """Everything the source holds; raises InputError or ClusterError."""
        from kvctl.cli.source import load

        return load(filenames=self.filenames, kubeconfig=self.kubeconfig, context=self.context)

    def wanted(self, scope: Scope) -> Wanted:
        """What the source wants of this node."""
        from kvctl.cli.node import read_wanted

        settings = self.settings()  # first: what is wrong with the command line needs no source
        return read_wanted(self.objects(), settings=settings, scope=scope)


def takes_inputs(
    *, of_node: bool = True, by_choice: bool = False, files: bool = True
) -> Callable[[Command], Command]:
    """Gives a command the shared options, handed to it as `inputs`.

    `of_node`: it looks at this node, so that --assume-vip makes sense. `by_choice`: without a source it looks
    at the kernel alone, so that --cluster is needed to ask the configured one. Without `files` a cluster is
    the only source.
    """

    def decorate(function: Command) -> Command:
        @wraps(function)
        def command(**given: Any) -> int:
            own = {name: given.pop(name) for name in list(given) if name in Inputs._fields}
            return function(inputs=Inputs(**own), **given)

        result: Command = command
        node = options.node if of_node else options.any_node
        if of_node:
            result = options.assume_vip(result)
        for option in (options.without_vip, options.interface, node, options.networks):
            result = option(result)
        if by_choice:
            result = options.cluster(result)
        result = options.configuration(result)
        return options.files(result) if files else result

    return decorate
