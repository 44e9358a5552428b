"""Where a cluster names its own pod and service ranges, best evidence first.

ServiceCIDR objects (Kubernetes 1.33), the flags of kube-controller-manager, the kubeadm-config
ConfigMap, the podCIDRs of the Nodes. A hint comes only from what a tenant cannot write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kvctl.cluster.fields import parse_cidr
from kvctl.model.net import Family, Network, collapse, family_of
from kvctl.model.objects import CidrHint, CidrKind
from kvctl.model.text import quote

SYSTEM_NAMESPACE = "kube-system"
CONTROLLER_MANAGER = "kube-controller-manager"
MOST_NODE_PREFIXES = 8

_FLAGS = {"cluster-cidr": CidrKind.POD, "service-cluster-ip-range": CidrKind.SERVICE}
_SUBNETS = {"podSubnet": CidrKind.POD, "serviceSubnet": CidrKind.SERVICE}


class Found(NamedTuple):
    """Ranges that one object names, and what was wrong with others that it names."""

    networks: tuple[tuple[CidrKind, Network], ...] = ()
    warnings: tuple[str, ...] = ()

    def of(self, kind: CidrKind) -> tuple[Network, ...]:
        """The ranges for `kind`."""
        return tuple(network for its, network in self.networks if its is kind)


def from_flags(words: Sequence[str], *, pod: str) -> Found:
    """The ranges in the command line of kube-controller-manager; `pod` is named in warnings.

    Flags come as `--cluster-cidr=x,y` or `--cluster-cidr x,y`, also inside one long word for `sh -c`.
    The last of two equal flags counts, as it does for the program itself.
    """
    found = {
        kind: _networks(text, kind=kind, where=f"--{flag} of pod {pod}")
        for flag, text in _flags(words).items()
        if (kind := _FLAGS.get(flag)) is not None
    }
    return _merged(found.values())


def _flags(words: Sequence[str]) -> dict[str, str]:
    plain = [part.strip("'\"") for word in words for part in word.split()]
    flags: dict[str, str] = {}
    for index, word in enumerate(plain):
        flag, equals, text = word.lstrip("-").partition("=")
        if not word.startswith("-") or flag not in _FLAGS:
            continue
        following = plain[index + 1] if index + 1 < len(plain) else ""
        if not equals:
            text = "" if following.startswith("-") else following
        flags[flag] = text.strip("'\"")
    return flags


def from_kubeadm(configuration: object) -> Found:
    """The ranges of a parsed kubeadm ClusterConfiguration: `networking.podSubnet` and `.serviceSubnet`."""
    networking = configuration.get("networking") if isinstance(configuration, Mapping) else None
    if not isinstance(networking, Mapping):
        return Found()
    return _merged(
        _networks(text, kind=kind, where=f"networking.{key} of the ConfigMap kubeadm-config")
        for key, kind in _SUBNETS.items()
        if isinstance(text := networking.get(key), str)
    )


def _networks(text: str, *, kind: CidrKind, where: str) -> Found:
    try:
        return Found(tuple((kind, parse_cidr(part.strip())) for part in text.split(",") if part.strip()))
    except ValueError:
        return Found(warnings=(f"{where} is {quote(text)}, not networks in CIDR notation: it is not used",))


def _merged(parts: Iterable[Found]) -> Found:
    several = tuple(parts)
    return Found(
        tuple(network for part in several for network in part.networks),
        tuple(warning for part in several for warning in part.warnings),
    )


def in_order(
    *,
    service_cidrs: Iterable[Network],
    flags: Iterable[Found],
    kubeadm: Found,
    nodes: Iterable[Network],
) -> tuple[tuple[CidrHint, ...], tuple[str, ...]]:
    """The hints of all sources, best evidence first, and the warnings that come with them."""
    flag_words = _merged(flags)
    hints = [
        *_hint(CidrKind.SERVICE, service_cidrs, "ServiceCIDR objects"),
        *_hint(CidrKind.POD, flag_words.of(CidrKind.POD), "--cluster-cidr of kube-controller-manager"),
        *_hint(
            CidrKind.SERVICE,
            flag_words.of(CidrKind.SERVICE),
            "--service-cluster-ip-range of kube-controller-manager",
        ),
        *_hint(CidrKind.POD, kubeadm.of(CidrKind.POD), "podSubnet of kubeadm-config"),
        *_hint(CidrKind.SERVICE, kubeadm.of(CidrKind.SERVICE), "serviceSubnet of kubeadm-config"),
    ]
    warnings = [*flag_words.warnings, *kubeadm.warnings]
    known = {family_of(n) for hint in hints if hint.kind is CidrKind.POD for n in hint.networks}
    for family, networks in _by_family(nodes):
        if len(networks) <= MOST_NODE_PREFIXES:
            hints += _hint(CidrKind.POD, networks, "podCIDRs of the Nodes")
        elif family not in known:
            warnings.append(
                f"the Nodes' podCIDRs are {len(networks)} separate {family} networks, more than"
                f" {MOST_NODE_PREFIXES}: they do not tell the pod CIDR; set --pod-cidr or egress_podcidr"
            )
    return tuple(hints), tuple(warnings)


def _hint(kind: CidrKind, networks: Iterable[Network], origin: str) -> Iterator[CidrHint]:
    if several := collapse(networks):
        yield CidrHint(kind=kind, networks=several, origin=origin)


def _by_family(networks: Iterable[Network]) -> Iterator[tuple[Family, list[Network]]]:
    several = collapse(networks)
    for family in Family:
        yield family, [network for network in several if family_of(network) is family]
