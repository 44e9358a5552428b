"""From objects and settings to policies; a Service that cannot have one becomes a `Skipped` with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from kvctl.model.host import Host
from kvctl.model.net import Address
from kvctl.model.objects import Objects, Pod, Service
from kvctl.model.ref import ServiceRef
from kvctl.model.settings import Settings
from kvctl.policy.annotations import Annotations, read_annotations
from kvctl.policy.cidrs import ClusterNetworks, cluster_networks
from kvctl.policy.context import Context, LeaseClaim
from kvctl.policy.judge import judge
from kvctl.policy.lease import lease_key
from kvctl.policy.pods import index_pods, is_idle
from kvctl.policy.resolution import Resolution
from kvctl.policy.together import Sharing, judged_together
from kvctl.policy.verdict import Fate, Skipped, Wanted
from kvctl.policy.vips import Claim, VipRules, Vips, find_vips, winners


def resolve(objects: Objects, settings: Settings, *, host: Host | None) -> Resolution:
    """Judge every Service of `objects`. Without `host` nothing is asked of this machine's addresses."""
    return Resolver(settings).resolve(objects, host=host)


class _Read(NamedTuple):
    """A Service with what its annotations and addresses say."""

    service: Service
    annotations: Annotations
    vips: Vips
    claims: tuple[Claim, ...]

    @property
    def addresses(self) -> Iterator[Address]:
        """Every VIP whose claims and Leases it is judged by."""
        for vip in (*self.vips.accepted.values(), *self.vips.held.values()):
            yield vip.address


Verdicts = tuple[Wanted | Skipped, ...]


class Resolver:
    """`resolve` again and again, for an agent: only what may have changed is judged anew.

    Objects count as unchanged when they are the same values as last time, so a caller keeps those that are. With
    `here_only` Services that no pod of the node belongs to are told apart (`Resolution.idle`): of five thousand a node
    has pods of a few, and what one event costs must not grow with the others.
    """

    def __init__(self, settings: Settings, *, here_only: bool = False) -> None:
        self._settings = settings
        self._here_only = here_only
        self._last: Objects | None = None
        self._shared: tuple[object, ...] = ()
        self._networks: ClusterNetworks | None = None
        self._rules: VipRules | None = None
        self._index = index_pods(Objects())
        self._by_ref: Mapping[ServiceRef, Service] = {}
        self._read: dict[ServiceRef, _Read] = {}
        self._unselective: frozenset[ServiceRef] = frozenset()
        """Services without a selector: who belongs to them is told by others, and judged each time."""
        self._selecting = _Selecting()
        self._claims: Mapping[Address, Claim] = {}
        self._leases: Mapping[Address, LeaseClaim] = {}
        self._verdicts: dict[ServiceRef, Verdicts] = {}
        """Of those that ask, in the order of the source."""
        self._in_order = True
        """Whether they are."""
        self._sharing = Sharing()
        self._idle: dict[ServiceRef, tuple[Skipped, ...]] = {}

    def resolve(self, objects: Objects, *, host: Host | None) -> Resolution:
        """As the function of that name."""
        context, due = self._look(objects, host)
        self._judge(due, context)
        broken: list[Wanted | Skipped] = [
            Skipped(ref=ref, reason="the object is malformed, see the errors", fate=Fate.KEEP)
            for ref in sorted(objects.broken)
        ]
        told = (verdict for its in self._verdicts.values() for verdict in its)
        wanted, skipped = judged_together([*broken, *told], sharing=self._sharing.refs)
        return Resolution(
            wanted=tuple(wanted),
            skipped=tuple(skipped),
            present=self._by_ref.keys() | objects.broken if objects.broken else self._by_ref.keys(),
            networks=context.networks,
            claims=context.claims,
            rules=context.rules,
            index=context.pods,
            services=self._by_ref,
            announced=objects.announced,
            unidentified=objects.unidentified,
            node_is_unknown=context.node_is_unknown,
            idle=self._idle,
        )

    def _look(self, objects: Objects, host: Host | None) -> tuple[Context, AbstractSet[ServiceRef]]:
        """What Services are judged by now, and those that may be judged otherwise than last time."""
        settings, last = self._settings, self._last
        networks = self._same(cluster_networks(settings, hints=objects.cidr_hints, nodes=objects.nodes))
        rules = VipRules(
            networks=networks,
            node_addresses={ip: node.name for node in objects.nodes for ip in node.internal_ips},
        )
        due = self._read_services(objects, rules)
        moved = []
        if last is None or objects.pods is not last.pods or objects.endpoints != last.endpoints:
            moved = _moved(last.pods if last is not None else (), objects.pods)
            self._index = index_pods(objects)
        self._last = objects
        context = Context(
            settings=settings,
            networks=networks,
            pods=self._index,
            rules=rules,
            claims=self._claims,
            leases=self._leases,
            host=host,
            endpoints_known=objects.endpoints_known,
            nodes_known=objects.nodes_known,
            nodes=tuple(sorted(node.name for node in objects.nodes)),
            announced=objects.announced,
        )
        shared = (
            networks,
            rules,
            host,
            objects.endpoints_known,
            context.nodes,
            objects.nodes_known,
            objects.announced,
            context.pods.has_pods,
        )
        if shared != self._shared or (moved and context.compares_labels):
            self._shared = shared
            return context, self._read.keys() | due
        due |= self._unselective
        due.update(ref for pod in moved for ref in self._selecting.named_by(pod))
        return context, due

    def _same(self, networks: ClusterNetworks) -> ClusterNetworks:
        """Of equal ones the first, so that whoever compares sees at once that they are."""
        if self._networks != networks:
            self._networks = networks
        return self._networks

    def _read_services(self, objects: Objects, rules: VipRules) -> set[ServiceRef]:
        """Read those that have changed; all whose verdict that may touch."""
        last = self._last
        same_rules = rules == self._rules
        if last is not None and objects.services is last.services and same_rules:
            return set()
        before = self._read if same_rules else {}
        gone, self._rules, self._read = self._read, rules, {}
        for service in objects.services:
            if not service.annotations and service.type != "LoadBalancer":
                continue
            known = before.get(service.ref)
            if known is None or known.service is not service:
                known = self._read_one(service, rules, from_api=objects.from_api)
            if known is not None:
                self._read[service.ref] = known
        changed = {ref for ref, read in self._read.items() if gone.get(ref) is not read}
        changed |= gone.keys() - self._read.keys()
        self._by_ref = {service.ref: service for service in objects.services}
        self._in_order = False
        self._selecting.change(changed, before=gone, after=self._read)
        self._unselective = frozenset(ref for ref, read in self._read.items() if not read.service.selector)
        return changed | self._contest(changed, gone)

    def _read_one(self, service: Service, rules: VipRules, *, from_api: bool) -> _Read | None:
        annotations = read_annotations(service.annotations)
        balances = service.type == "LoadBalancer"
        if not (annotations.asks or balances):
            return None
        vips = find_vips(
            service,
            annotated=annotations.addresses,
            rules=rules,
            settings=self._settings,
            from_api=from_api,
        )
        claims = (Claim(ref=service.ref, vip=vip, created=service.created) for vip in vips.claims)
        return _Read(service, annotations, vips, tuple(claims) if balances else ())

    def _contest(self, changed: set[ServiceRef], gone: Mapping[ServiceRef, _Read]) -> set[ServiceRef]:
        """Find anew who has which VIP; the Services that name one which a changed one names or named."""
        if not changed:
            return set()
        self._claims = winners(claim for read in self._read.values() for claim in read.claims)
        self._leases = self._find_leases()
        reads = [read for ref in changed for read in (gone.get(ref), self._read.get(ref)) if read is not None]
        touched = {claim.vip.address for read in reads for claim in read.claims}
        return {
            ref
            for ref, read in self._read.items()
            if touched and any(address in touched for address in read.addresses)
        }

    def _find_leases(self) -> Mapping[Address, LeaseClaim]:
        """By which Lease each VIP is held: the same answer on all nodes, wherever the pods are."""
        if not self._settings.elects:
            return {}
        asking = (read for read in self._read.values() if read.annotations.asks)
        first = winners(claim for read in asking for claim in read.claims)
        return {
            vip: LeaseClaim(claim.ref, lease_key(claim.ref, self._read[claim.ref].annotations))
            for vip, claim in first.items()
        }

    def _judge(self, due: AbstractSet[ServiceRef], context: Context) -> None:
        """Judge those; what is not said anew stays the very same value, for whoever compares."""
        idle: dict[ServiceRef, tuple[Skipped, ...]] = {}
        for ref in due:
            read = self._read.get(ref)
            verdicts: Verdicts = ()
            if read is not None and read.annotations.asks:
                verdicts = tuple(judge(read.service, read.annotations, read.vips, context))
            before = self._verdicts.get(ref, ())
            known = before or self._idle.get(ref)
            its = known if known == verdicts else verdicts
            after: Verdicts = ()
            if not its:
                idle[ref] = ()
            elif self._here_only and read is not None and is_idle(read.service, context.pods):
                idle[ref] = tuple(verdict for verdict in its if isinstance(verdict, Skipped))
            else:
                idle[ref] = ()
                after = its
            self._note(ref, before, after)
        if any(its or ref in self._idle for ref, its in idle.items()):
            self._idle = {ref: its for ref, its in {**self._idle, **idle}.items() if its}
        if not self._in_order:
            self._verdicts = {ref: self._verdicts[ref] for ref in self._read if ref in self._verdicts}
            self._in_order = True

    def _note(self, ref: ServiceRef, before: Verdicts, after: Verdicts) -> None:
        """From `before` on a Service has the verdicts `after`, perhaps none."""
        if after is before:
            return
        self._sharing.change(ref, before=before, after=after)
        if not after:
            del self._verdicts[ref]
            return
        self._in_order = self._in_order and bool(before)
        self._verdicts[ref] = after


class _Selecting:
    """Which Services a pod may belong to, by one label of each selector: a pod is not asked of by all Services."""

    def __init__(self) -> None:
        self._refs: dict[tuple[str, str, str], set[ServiceRef]] = {}

    def change(
        self,
        refs: Iterable[ServiceRef],
        *,
        before: Mapping[ServiceRef, _Read],
        after: Mapping[ServiceRef, _Read],
    ) -> None:
        """Note that the selectors of these may have changed."""
        for ref in refs:
            if ref in before and (label := _label(before[ref].service)) is not None:
                self._refs[label].discard(ref)
                if not self._refs[label]:
                    del self._refs[label]
            if ref in after and (label := _label(after[ref].service)) is not None:
                self._refs.setdefault(label, set()).add(ref)

    def named_by(self, pod: Pod) -> Iterator[ServiceRef]:
        """Those that a label of the pod speaks for."""
        for key, value in pod.labels.items():
            yield from self._refs.get((pod.namespace, key, value), ())


def _label(service: Service) -> tuple[str, str, str] | None:
    if not service.selector:
        return None
    return (service.ref.namespace, *min(service.selector.items()))


def _moved(before: tuple[Pod, ...], after: tuple[Pod, ...]) -> list[Pod]:
    """Pods that came, went or changed, as they were and are, and all that share an address with one."""
    old, new = set(map(id, before)), set(map(id, after))
    changed = [pod for pod in before if id(pod) not in new] + [pod for pod in after if id(pod) not in old]
    addresses = {address for pod in changed for address in pod.addresses}
    if not addresses:
        return changed
    return changed + [pod for pod in after if not addresses.isdisjoint(pod.addresses)]
