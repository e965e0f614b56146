"""Configuration files and command lines of the daemons of every node: containerd, kubelet, kube-proxy, CNI."""

import json
from pathlib import Path

from testbed.build import Binaries
from testbed.network import PODS, Node
from testbed.pki import Identity

CONFIGURATION = "/etc/kubernetes"
SOCKET = "/run/containerd/containerd.sock"
PAUSE = "localhost/sfc-testbed/pause:1"

# restrict_oom_score_adj: without CAP_SYS_RESOURCE no process may protect a sandbox from the out-of-memory killer,
# and every sandbox would fail with "can't get final child's PID from pipe".
CONTAINERD = f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
"""


def node_identity(node: Node) -> Identity:
    """The user name and group that the Node authorizer and NodeRestriction expect."""
    return Identity(f"system:node:{node.name}", "system:nodes", (f"DNS:{node.name}", f"IP:{node.address}"))


CLIENTS = {"kube-proxy": Identity("system:kube-proxy"), "multus": Identity("multus")}
"""Identities by component. Kubernetes brings kube-proxy's rights, manifests/multus.yaml those of Multus."""


def kubelet_configuration(cgroup_root: str) -> str:
    """In JSON. `cgroup_root` is the cgroup for pods, as `cgroups.node_root` returns it."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{CONFIGURATION}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{CONFIGURATION}/kubelet.crt",
            "tlsPrivateKeyFile": f"{CONFIGURATION}/kubelet.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup_root,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "maxPods": 250,
            "clusterDomain": "cluster.local",
            "clusterDNS": ["127.0.0.1"],  # there is no DNS; a pod's own loopback refuses at once
            "resolvConf": "",
            "makeIPTablesUtilChains": False,
            # The disk is the machine's: the kubelet must not remove images or evict pods when it fills.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
            # Tests kill containers again and again. Without this, the kubelet would delay their restart for minutes.
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        },
        indent=1,
    )


def proxy_configuration(node: Node) -> str:
    """kube-proxy's, in JSON."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": f"{CONFIGURATION}/kube-proxy.kubeconfig"},
            "hostnameOverride": node.name,
            "clusterCIDR": PODS,
            "nftables": {"minSyncPeriod": "100ms"},
            "conntrack": {"maxPerCore": 0},  # the limit is the machine's, not the node's
        },
        indent=1,
    )


def cni_configuration(node: Node) -> str:
    """Multus, in JSON, with the pods' usual network as its delegate.

    `clusterNetwork` would be the other way to name that network, but Multus looks for it in the cluster first and
    records a warning event for every pod.
    """
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "multus",
            "type": "multus",
            "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
            "capabilities": {"ips": True, "mac": True},
            "logLevel": "error",
            "logFile": "/var/log/multus.log",
            "delegates": [_pod_network(node)],
        },
        indent=1,
    )


def _pod_network(node: Node) -> dict[str, object]:
    """Gives every pod a routed link of its own.

    So service traffic between two pods of a node passes kube-proxy's rules in both directions, without the machine's
    br_netfilter module.
    """
    addresses = {"type": "host-local", "ranges": [[{"subnet": node.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    plugin = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]}


def containerd() -> list[str | Path]:
    """containerd's command line."""
    return ["containerd", "--config", f"{CONFIGURATION}/containerd.toml"]


def kubelet(binaries: Binaries, node: Node) -> list[str | Path]:
    """The kubelet's command line."""
    return [
        binaries.kubernetes / "kubelet",
        f"--config={CONFIGURATION}/kubelet.json",
        f"--kubeconfig={CONFIGURATION}/kubelet.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]


def kube_proxy(binaries: Binaries) -> list[str | Path]:
    """kube-proxy's command line."""
    return [binaries.kubernetes / "kube-proxy", f"--config={CONFIGURATION}/kube-proxy.json"]
