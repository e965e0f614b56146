"""The other nodes in the program's maps, and the device of the tunnel that leads to them."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from pyroute2.netlink.rtnl import RTM_NEWLINK

from controller.node.kernel import sysctl, tc
from controller.node.kernel.errors import explained, ignored
from controller.node.kernel.maps import Map, address_text, packed_address
from controller.node.kernel.netlink import IFF_NOARP, IFF_UP, NEW, Netlink, link, read_link
from controller.node.kernel.session_table import Programs
from controller.node.plane.far import FAR_LINKS, peer_of
from controller.node.plane.model import FROM_TUNNEL, SLOTS, LinkState

DEVICE = "sfc-tunnel"
"""Name of the tunnel's device on the node."""
LARGEST_MTU = 65485
"""The frames of the tunnel are as large as those of the chains, whose interfaces have the right MTU."""
_OWN = 0
"""The number of the node itself among its peers."""
_ENTRY = 0


class Peers:
    """Every method raises DatapathError when the kernel refuses."""

    def __init__(self, maps: Mapping[str, Map], programs: Programs) -> None:
        self._links, self._peers, self._numbers = maps["links"], maps["peers"], maps["peer_numbers"]
        self._far_links = maps["far_links"]
        self._heard, self._entry = maps["heard"], maps["tunnel_entry"]
        self._programs = programs

    @property
    def program_fd(self) -> int:
        """For the filter of the tunnel's device."""
        return self._programs.from_tunnel

    def open(self, tunnel: int) -> None:
        """From now on frames for other nodes leave by this device (its interface index)."""
        self._peers.put((_OWN,), (bytes(16), tunnel))
        self._entry.put((_ENTRY,), (self._programs.into_tunnel,))

    def set(self, number: int, address: str) -> None:
        """Gives a node a number, by which ends and far links name it. It is up."""
        self._peers.put((number,), (packed_address(address), 0))
        self._numbers.put((packed_address(address),), (number,))
        self.set_up(number, True)

    def clear(self, number: int) -> None:
        """The counterpart of `set`: what it still sends is dropped."""
        self.set_up(number, False)
        address, _ = self._peers.get((number,))
        if any(address):
            self._numbers.delete((address,))
        self._peers.put((number,), (bytes(16), 0))

    def set_up(self, number: int, up: bool) -> None:
        """Whether frames are sent to the node. While they are not, its sessions choose again."""
        state = LinkState.SERVING if up else LinkState.GONE
        self._links.put((SLOTS + FAR_LINKS + number,), (0, 0, 0, state, 1, 0))
        for (identity,), (index,) in self._far_links.items():
            found, connection, side, before, *_ = self._links.get((index,))
            if peer_of(identity) == number and found == identity and before:
                self._links.put((index,), (identity, connection, side, state, 1, 0))

    def is_up(self, number: int) -> bool:
        """Whether frames are sent to the node."""
        up: bool = self._links.get((SLOTS + FAR_LINKS + number,))[3] == LinkState.SERVING
        return up

    def heard(self, number: int) -> int:
        """When it last answered an echo: ns on CLOCK_MONOTONIC; 0: never."""
        at: int = self._heard.get((number,))[0]
        return at

    def known(self) -> dict[str, int]:
        """The number of each node, by address."""
        return {address_text(address): number for (address,), (number,) in self._numbers.items()}


def make_device(kernel: Netlink, port: int, program: int) -> int:
    """Makes the tunnel's device unless it is there, and puts the program at its ingress; returns its interface index.

    In the network namespace of `kernel`. Raises LinkError; when another process has the UDP port, it says so.
    """
    data = [
        ("IFLA_VXLAN_COLLECT_METADATA", 1),
        ("IFLA_VXLAN_GBP", True),
        ("IFLA_VXLAN_PORT", port),
        ("IFLA_VXLAN_LEARNING", 0),
        ("IFLA_VXLAN_UDP_ZERO_CSUM6_TX", 1),
        ("IFLA_VXLAN_UDP_ZERO_CSUM6_RX", 1),
    ]
    kind = [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]
    with explained(f"make the tunnel's device {DEVICE} on UDP port {port}"):
        with ignored(errno.EEXIST):
            kernel.request(RTM_NEWLINK, link(("IFLA_IFNAME", DEVICE), ("IFLA_LINKINFO", {"attrs": kind})), NEW)
        sysctl.set_interface("ipv4", DEVICE, forwarding=0, rp_filter=1)
        sysctl.set_interface("ipv6", DEVICE, forwarding=0, disable_ipv6=1)
        made = read_link(kernel, DEVICE)
        tc.attach(kernel, made.ifindex, 0, program, FROM_TUNNEL)
        flags = IFF_UP | IFF_NOARP
        kernel.request(RTM_NEWLINK, link(("IFLA_MTU", LARGEST_MTU), index=made.ifindex, flags=flags, change=flags))
    return made.ifindex
