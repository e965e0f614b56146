"""The other nodes in the program's maps."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from functools import partial

from controller.node.kernel.maps import Map, address_text, packed_address
from controller.node.kernel.session_table import Programs, SessionTables
from controller.node.kernel.succession import sessions_taken_over
from controller.node.kernel.tcx import number_and_name
from controller.node.kernel.tunnel import Tunnel
from controller.node.plane.far import FAR_LINKS, WIRE_VERSION, peer_of
from controller.node.plane.model import SLOTS, LinkState

_OWN = 0
"""The number of the node itself among its peers."""
_ENTRY = 0
_VERSIONS = 3
"""The bits of a time in `heard` that tell how the version of the frame differs from ours (bpf/tunnel.h)."""


class Peers:
    """Every method raises DatapathError when the kernel refuses."""

    def __init__(self, maps: Mapping[str, Map], programs: Programs, session_tables: SessionTables) -> None:
        self._links, self._peers, self._numbers = maps["links"], maps["peers"], maps["peer_numbers"]
        self._far_links = maps["far_links"]
        self._heard, self._entry, self._underlay = maps["heard"], maps["tunnel_entry"], maps["underlay"]
        self._programs = programs
        self._session_tables = session_tables
        self.changing = threading.RLock()
        """Held while what is in the maps of a node, or of a link of it, is read and then written."""

    @property
    def program_fd(self) -> int:
        """For the ingress of the tunnel's device."""
        return self._programs.from_tunnel

    def tunnel(self, address: str, port: int) -> Tunnel:
        """The tunnel that leads into this data path, from the calling thread's network namespace. See there."""
        program = self._programs.from_tunnel
        succeeding = partial(sessions_taken_over, tables=self._session_tables)
        return Tunnel(address, port, program, number_and_name(program)[0], succeeding)

    def open(self, tunnel: int) -> None:
        """From now on frames for other nodes leave by this device (its interface index)."""
        self._peers.put((_OWN,), (bytes(16), tunnel))
        self._entry.put((_ENTRY,), (self._programs.into_tunnel,))

    def set(self, number: int, address: str) -> None:
        """Gives a node a number, by which ends and far links name it. It is up."""
        with self.changing:
            self._peers.put((number,), (packed_address(address), 0))
            self._numbers.put((packed_address(address),), (number,))
        self.set_up(number, True)

    def restore(self) -> None:
        """Writes what stands for the nodes that have numbers, where a map was made anew since they got them: sessions
        that were taken over name nodes by these numbers."""
        for address, number in self.known().items():
            if self._peers.get((number,))[0] != packed_address(address):
                self.set(number, address)
            elif not self._links.get((SLOTS + FAR_LINKS + number,))[3]:
                self.set_up(number, True)

    def clear(self, number: int) -> None:
        """The counterpart of `set`: what it still sends is dropped."""
        self.set_up(number, False)
        with self.changing:
            address, _ = self._peers.get((number,))
            if any(address):
                self._numbers.delete((address,))
            self._peers.put((number,), (bytes(16), 0))

    def set_up(self, number: int, up: bool) -> None:
        """Whether frames are sent to the node. While they are not, its sessions choose again."""
        state = LinkState.SERVING if up else LinkState.GONE
        with self.changing:
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
        """When it last answered an echo: ns on CLOCK_MONOTONIC; 0: never, or it sends in another version since."""
        at: int = self._heard.get((number,))[0]
        return 0 if at & _VERSIONS else at

    def foreign(self, number: int) -> int | None:
        """The version of the wire in which the node sends, if that is another one than ours."""
        differs: int = self._heard.get((number,))[0] & _VERSIONS
        return differs ^ WIRE_VERSION if differs else None

    @property
    def underlay(self) -> int:
        """The interface at which frames need no tunnel's device: its index; 0: there is none."""
        ifindex: int = self._underlay.get((_ENTRY,))[2]
        return ifindex

    def set_underlay(self, address: str, port: int, ifindex: int) -> None:
        """From now on frames to the tunnel's port at this node's address, which is IPv4, need no device if they come to
        that interface and find its shortcut. With the index 0, all do, and so do those that leave."""
        entry = (ipaddress.ip_address(address).packed, port.to_bytes(2, "big"), ifindex)
        self._underlay.put((_ENTRY,), entry if ifindex else (bytes(4), bytes(2), 0))

    def set_routes(self, routes: Mapping[str, int]) -> None:
        """By which interface frames for each node (its address) leave without the device; 0: they leave by it."""
        with self.changing:
            known = self.known()
            for address in routes.keys() & known.keys():
                entry = (packed_address(address), routes[address])
                if self._peers.get((known[address],)) != entry:
                    self._peers.put((known[address],), entry)

    def known(self) -> dict[str, int]:
        """The number of each node, by address."""
        return {address_text(address): number for (address,), (number,) in self._numbers.items()}
