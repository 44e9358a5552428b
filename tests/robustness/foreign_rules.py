# ruff: noqa: E501 (save text has the lines it has)
"""Rule sets as other programs leave them behind: the shapes that matter, for pods in 10.0.0.0/16 and fd00:10::/64."""

from __future__ import annotations

from kvctl.model.net import Family

_KUBE_PROXY = """\
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-CCCCCCCCCCCCCCCC - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s {pod}/{bits} -m comment --comment "default/kubernetes:https" -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m comment --comment "default/kubernetes:https" -m tcp -j DNAT --to-destination {node_port}
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m comment --comment "default/kubernetes:https" -m tcp -j DNAT --to-destination {pod_port}
-A KUBE-SERVICES -d {cluster_ip}/{bits} -p tcp -m comment --comment "default/kubernetes:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-CCCCCCCCCCCCCCCC
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-CCCCCCCCCCCCCCCC -m comment --comment "default/kubernetes:https -> {node}" -m statistic --mode random --probability 0.5 -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-CCCCCCCCCCCCCCCC -m comment --comment "default/kubernetes:https -> \\"quoted\\"" -j KUBE-SEP-BBBBBBBBBBBBBBBB
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
"""

_CALICO = """\
*mangle
:cali-PREROUTING - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A cali-PREROUTING -m comment --comment "cali:6BJqBjBC7crtA-7-" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:cali-OUTPUT - [0:0]
:cali-POSTROUTING - [0:0]
:cali-PREROUTING - [0:0]
:cali-fip-dnat - [0:0]
:cali-fip-snat - [0:0]
:cali-nat-outgoing - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A OUTPUT -m comment --comment "cali:tVnHkvAo15HuiPy0" -j cali-OUTPUT
-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-PREROUTING -m comment --comment "cali:r6XmIziWUJsdOK6Z" -j cali-fip-dnat
-A cali-POSTROUTING -m comment --comment "cali:Z-c7XtVd2Bq7s_hA" -j cali-fip-snat
-A cali-POSTROUTING -m comment --comment "cali:nYKhEzDlr11Jccal" -j cali-nat-outgoing
-A cali-nat-outgoing -s {pods} ! -d {pods} -m comment --comment "cali:flqWnvo8yq4ULQLa" -j MASQUERADE --random-fully
COMMIT
"""

_FLANNEL = """\
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {pods} -d {pods} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {pods} ! -d {multicast} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {pods} -d {pods} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""

_DOCKER = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {docker} ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
"""

_UFW = """\
*filter
:ufw-before-forward - [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-user-forward - [0:0]
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-before-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
COMMIT
*nat
-A POSTROUTING -s {vpn} -j MASQUERADE
COMMIT
"""

PROGRAMS = {
    "kube-proxy": _KUBE_PROXY,
    "calico": _CALICO,
    "flannel": _FLANNEL,
    "docker": _DOCKER,
    "ufw": _UFW,
}

_WORDS = {
    Family.IPV4: {
        "bits": "32",
        "pods": "10.0.0.0/16",
        "pod": "10.0.0.9",
        "pod_port": "10.0.0.9:6443",
        "node": "172.16.0.20",
        "node_port": "172.16.0.20:6443",
        "cluster_ip": "10.96.0.1",
        "multicast": "224.0.0.0/4",
        "loopback": "127.0.0.0/8",
        "docker": "172.17.0.0/16",
        "vpn": "10.8.0.0/24",
    },
    Family.IPV6: {
        "bits": "128",
        "pods": "fd00:10::/64",
        "pod": "fd00:10::9",
        "pod_port": "[fd00:10::9]:6443",
        "node": "2001:db8::20",
        "node_port": "[2001:db8::20]:6443",
        "cluster_ip": "fd00:96::1",
        "multicast": "ff00::/8",
        "loopback": "::1/128",
        "docker": "fd00:17::/64",
        "vpn": "fd00:8::/64",
    },
}


def rules_of(program: str, family: Family) -> str:
    """Restore text of a program's rules in one family."""
    return PROGRAMS[program].format(**_WORDS[family])
