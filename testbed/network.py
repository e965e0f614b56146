"""The network of the testbed: the nodes on a bridge, in a network namespace with no other link.

Nothing leaves it: an address that is no node, pod or service is unreachable at once. Services need a route only so that
a node's own packets reach the point where kube-proxy rewrites their destination.
"""

from collections.abc import Iterable
from dataclasses import dataclass

SERVICES = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"
"""The service `kubernetes`: the API server itself."""
PODS = "10.244.0.0/16"
MOST_NODES = 9
SETTINGS = (
    "net.ipv4.ip_forward=1",
    "net.ipv4.icmp_ratelimit=0",  # otherwise a pod gets no "unreachable", and waits for its time-out
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its number, from 1; node 1 also runs the control plane."""

    number: int

    @property
    def name(self) -> str:
        """As Kubernetes knows it, and its link on the bridge."""
        return f"node{self.number}"

    @property
    def address(self) -> str:
        """Its IPv4 address among the nodes."""
        return f"10.200.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The subnet of its pods, 512 addresses."""
        return f"10.244.{2 * self.number}.0/23"


def links(node: Node, others: Iterable[Node], fabric: int) -> list[str]:
    """`ip` commands to run inside the node. `fabric` is the id of a process in the bridge's network namespace."""
    return [
        "link set lo up",
        f"link add eth0 type veth peer name {node.name} netns {fabric}",
        f"address add {node.address}/24 dev eth0",
        "link set eth0 up",
        *(f"route replace {other.pods} via {other.address}" for other in others if other != node),
        f"route replace {SERVICES} dev eth0",
        "route replace unreachable default",
    ]


def cable(node: Node, plugged: bool) -> str:
    """The `ip` command, to run in the bridge's network namespace, that plugs in the node's link, or unplugs it."""
    return f"link set {node.name} {'up' if plugged else 'down'}"


def ports(nodes: Iterable[Node]) -> list[str]:
    """`ip` commands to run in the bridge's network namespace, once the nodes' links exist."""
    return [f"link set {node.name} master fabric up" for node in nodes]
