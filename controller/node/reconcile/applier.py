"""How a change is carried out on the kernel, and how it is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from controller.node.plane.changes import Change, Clear, Forget, Kind, Set
from controller.node.plane.model import PROGRAM
from controller.node.reconcile.node_view import NodeView
from controller.node.reconcile.protocols import DataPathWriter, LinkFilters
from sfc.chain import Side

log = logging.getLogger(__name__)


class Applier:
    """Writes changes into filters and maps. To be used during a pass only."""

    def __init__(self, links: LinkFilters, datapath: DataPathWriter, node: NodeView) -> None:
        """`node` is told which filters were changed."""
        self._links = links
        self._datapath = datapath
        self._node = node

    def apply(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Carries out the changes one after the other, and returns them.

        Raises what the kernel's adapters raise. The changes before that one stay, and the next pass observes them.
        """
        ordered = tuple(changes)
        for change in ordered:
            self._carry_out(change)
        return ordered

    def _carry_out(self, change: Change) -> None:
        match change:
            case Set(Kind.LINKS, slot, entry):
                self._datapath.set_link(slot, entry)
            case Clear(Kind.LINKS, slot):
                self._datapath.clear_link(slot)
            case Set(Kind.TARGETS, (connection, side), table):
                self._datapath.set_targets(connection, side, table)
            case Clear(Kind.TARGETS, (connection, side)):
                self._datapath.clear_targets(connection, side)
            case Set(Kind.NEIGHBOURS, (connection, side, address), mac):
                self._datapath.set_neighbour(connection, side, address, mac)
            case Clear(Kind.NEIGHBOURS, (connection, side, address)):
                self._datapath.clear_neighbour(connection, side, address)
            case Set(Kind.FILTERS, ifindex, slot):
                self._links.attach(ifindex, slot, self._datapath.program_fd, PROGRAM)
                self._node.filter_set(ifindex)
            case Clear(Kind.FILTERS, ifindex):
                self._links.detach(ifindex)
                self._node.filter_cleared()
            case Forget(connection):
                self._datapath.forget(connection)


def log_changes(changes: Iterable[Change], names: Mapping[int, str]) -> None:
    """A line for each change of a link or of targets. `names` are those of the cross-connections, by number."""

    def shown(connection: int, side: Side) -> dict[str, str | int]:
        return {"cross_connection": names.get(connection, connection), "side": side.name.lower()}

    for change in changes:
        match change:
            case Set(Kind.LINKS, slot, entry):
                where = shown(entry.connection, entry.side)
                log.info("link set", extra={"slot": slot, "state": entry.state.name.lower(), **where})
            case Clear(Kind.LINKS, slot):
                log.info("link cleared", extra={"slot": slot})
            case Set(Kind.TARGETS, (connection, side), _):
                log.info("targets set", extra=shown(connection, side))
            case Clear(Kind.TARGETS, (connection, side)):
                log.info("targets cleared", extra=shown(connection, side))
