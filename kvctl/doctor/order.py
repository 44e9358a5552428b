"""Whether packets come to kvctl's rules: its jumps are there, first, and nobody else has the packet before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvctl.doctor.finding import Finding, failure, fine, unknown, warning
from kvctl.doctor.ranges import known_networks
from kvctl.doctor.scene import Scene
from kvctl.doctor.tracking import untracked
from kvctl.model.net import Network, host_network
from kvctl.model.objects import CidrKind
from kvctl.model.rules import Hook, table_of
from kvctl.model.text import one_line, plural
from kvctl.netfilter.overrides import find_override
from kvctl.netfilter.position import is_hook, rule_in_the_way
from kvctl.reconcile.look import Look
from kvctl.reconcile.site import Site

CHECK = "order"


def check(scene: Scene) -> Iterator[Finding]:
    """Both families of the back end in use."""
    if scene.look is None:
        return
    for family, site in scene.look.sites.items():
        found = [*jump_faults(scene, site), *_overridden(scene, scene.look, site)]
        if not found and site.installed.refs:
            count = plural(len(site.installed.refs), "Service")
            found = [fine(CHECK, f"{family}: kvctl's jump comes first, for {count}")]
        yield from found
        yield from untracked(scene, family, check=CHECK)
    yield from _kube_vip(scene.look)
    yield from _cilium(scene)


def jump_faults(scene: Scene, site: Site) -> Iterator[Finding]:
    """Why packets do not come to the rules of one family; causes before consequences."""
    apply = scene.apply()
    for hook, pods in _pods(site).items():
        chain = f"{hook.chain} of {hook.table} ({site.family})"
        beside = site.snapshot.beside(hook.table)
        if hook.root not in site.snapshot.chains:
            continue
        has_gone = not any(is_hook(found, hook) for found in site.snapshot.hook_chain(hook))
        if not site.snapshot.chains[hook.root]:
            evidence = f"{hook.root} has no rule" + (", and no rule leads to it" if has_gone else "")
            yield failure(CHECK, _flushed(site, hook), evidence=evidence, mend=apply)
        elif has_gone:
            text = f"kvctl's jump in {chain} has gone: no packet comes to its rules"
            yield failure(
                CHECK, text, evidence=f"chain {hook.root} is there, no rule leads to it", mend=apply
            )
        elif not beside.position_known:
            text = f"whether another rule comes before kvctl's jump in {chain} cannot be seen: native nft rules hide it"
            yield unknown(CHECK, text, mend="nft list ruleset")
        elif pods and (rule := rule_in_the_way(site.snapshot, pods, hook)) is not None:
            text = f"another program's rule takes the pods' packets before kvctl's jump in {chain}"
            yield failure(CHECK, text, evidence=one_line(f"-A {hook.chain} {rule}", longest=300), mend=apply)


def _flushed(site: Site, hook: Hook) -> str:
    chains = {name: rules for name, rules in site.snapshot.chains.items() if table_of(name) is hook.table}
    if not any(chains.values()):
        return f"kvctl's chains of {hook.table} ({site.family}) are empty: somebody has flushed the table"
    return (
        f"kvctl's chain {hook.root} of {hook.table} ({site.family}) is empty: somebody has flushed it, and no pod's "
        "packet comes to the rules of its Service"
    )


def _pods(site: Site) -> dict[Hook, list[Network]]:
    """Whose packets have to come to each jump."""
    installed = site.installed
    asides = (entry for entry, _ in installed.guards)
    return {
        Hook.EGRESS: [host_network(entry.address) for entry in installed.entries],
        Hook.DROP: [host_network(entry.address) for entry in (*installed.drops.entries, *asides)],
        Hook.MARK: [host_network(entry.address) for entry, _ in installed.marks],
    }


def _overridden(scene: Scene, look: Look, site: Site) -> Iterator[Finding]:
    family = site.family
    pods: Sequence[Network] = _pods(site)[Hook.EGRESS] or known_networks(scene)[CidrKind.POD][family].networks
    if not pods:
        return
    text = find_override(backend=look.choice.backend, family=family, pods=pods, nft_chains=look.nft_chains)
    if text is not None:
        mend = "give that chain a priority above 100, or let it spare the pods (nft -a list ruleset)"
        yield failure(CHECK, text, evidence="nft -j list chains", mend=mend)


def _kube_vip(look: Look) -> Iterator[Finding]:
    rules = [(family, rule) for family, found in look.foreign.items() for rule in found]
    if not rules:
        return
    vips = sorted({str(rule.vip) for _, rule in rules if rule.vip is not None})
    named = f" (VIP {', '.join(vips[:3])})" if vips else ""
    text = f"kube-vip programs egress on this node, too{named}: two programs for one Service undo each other"
    mend = 'annotate such Services with kvctl.io/egress: "true" instead of kube-vip.io/egress'
    yield warning(CHECK, text, evidence=f"{plural(len(rules), 'rule')} of kube-vip's", mend=mend)


def _cilium(scene: Scene) -> Iterator[Finding]:
    """What rewrites in eBPF comes before iptables, and leaves nothing to see there."""
    if "cilium_host" in scene.host.interfaces:
        text = "Cilium is on this host: whether it masquerades in eBPF, where iptables sees nothing, cannot be told"
        mend = "kubectl -n kube-system get configmap cilium-config -o yaml | grep bpf-masquerade (it has to be false)"
        yield unknown(CHECK, text, evidence="interface cilium_host", mend=mend)
