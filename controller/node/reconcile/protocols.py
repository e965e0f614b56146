"""What this room needs of the kernel. The room `kernel` provides it; tests put fakes in its place.

Everything that sets or clears is idempotent: setting the same again changes nothing, clearing what is gone succeeds.
Each method raises OSError, or an error of its room, when the kernel refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from controller.node.plane.model import DataPlane, FarLink, HostLink, LinkEntry, SideKey
from controller.node.plane.numbers import Numbered
from sfc.chain import Patience, SessionKey, Side


class LinkFilters(Protocol):
    """The node's data links, and our filter on each."""

    def list(self) -> tuple[HostLink, ...]:
        """All links, read now."""

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        """Puts the program (a file descriptor) into the link's filter, in place of one that is there."""

    def detach(self, ifindex: int) -> None:
        """Removes our filter from the link."""


class DataPathWriter(Protocol):
    """The loaded program and its maps, to be written and read back."""

    program_fd: int

    def observe(self, known: Mapping[SideKey, bytes]) -> DataPlane:
        """What the maps hold, without filters. A lookup table that equals the one in `known` is that same object."""

    def set_number(self, number: int, connection: Numbered) -> None:
        """Notes what a number stands for."""

    def set_patience(self, number: int, patience: Patience) -> None:
        """How long silent sessions of a cross-connection stay active."""

    def clear_patience(self, number: int) -> None:
        """The node's default holds for the cross-connection."""

    def set_session_key(self, number: int, key: SessionKey) -> None:
        """What belongs to one session of a cross-connection; the sessions that it has begin anew."""

    def clear_session_key(self, number: int) -> None:
        """A session is a flow again; those that there are begin anew."""

    def set_link(self, slot: int, entry: LinkEntry) -> None:
        """Writes a slot's entry."""

    def clear_link(self, slot: int) -> None:
        """Empties a slot."""

    def set_members(self, number: int, peers: Collection[int]) -> None:
        """Frames of these nodes, by number, may enter the cross-connection."""

    def clear_members(self, number: int) -> None:
        """Frames of no other node may enter it any more."""

    def set_far_link(self, index: int, link: FarLink) -> None:
        """Writes what targets name as a link of another node."""

    def clear_far_link(self, index: int) -> None:
        """Removes it."""

    def set_targets(self, connection: int, side: Side, table: bytes) -> None:
        """Replaces a side's lookup table as a whole."""

    def clear_targets(self, connection: int, side: Side) -> None:
        """Removes a side's lookup table."""

    def set_neighbour(self, connection: int, side: Side, address: str, mac: str) -> None:
        """Answers `mac` to whoever asks for the address on that side."""

    def clear_neighbour(self, connection: int, side: Side, address: str) -> None:
        """Answers no more for the address on that side."""

    def unlearn(self, connection: int) -> None:
        """Removes what frames have told about the neighbours of a cross-connection."""

    def succeeding(self, programs: Collection[int]) -> AbstractContextManager[None]:
        """Takes over the sessions of these programs, whose filters get this program inside of the block."""

    def forget(self, connection: int) -> None:
        """Asks for the removal of all that the maps hold of a cross-connection; `sweep` does it."""

    def sweep(self) -> None:
        """Removes what was to be forgotten, the numbers last. Not during a pass: it takes milliseconds for each."""

    def end_sessions(self, slots: Collection[int]) -> None:
        """Ends the sessions that are left of the links in these slots: each side of them is told when it sends again.
        Not during a pass: it takes twice as long as `activity`."""

    def activity(self, slots: Collection[int]) -> Mapping[int, int]:
        """Active sessions of each of the slots. Takes some milliseconds when the session tables are large."""
