"""How a change is carried out on the kernel, and how it is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

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
            case Set(kind, key, value):
                self._set(kind, key, value)
            case Clear(kind, key):
                self._clear(kind, key)
            case Forget(connection):
                self._datapath.forget(connection)

    def _set(self, kind: Kind, key: Any, value: Any) -> None:
        match kind:
            case "links":
                self._datapath.set_link(key, value)
            case "targets":
                connection, side = key
                self._datapath.set_targets(connection, side, value)
            case "neighbours":
                connection, side, address = key
                self._datapath.set_neighbour(connection, side, address, value)
            case "filters":
                self._links.attach(key, value, self._datapath.program_fd, PROGRAM)
                self._node.filter_set(key)

    def _clear(self, kind: Kind, key: Any) -> None:
        match kind:
            case "links":
                self._datapath.clear_link(key)
            case "targets":
                self._datapath.clear_targets(*key)
            case "neighbours":
                self._datapath.clear_neighbour(*key)
            case "filters":
                self._links.detach(key)
                self._node.filter_cleared()


def log_changes(changes: Iterable[Change], names: Mapping[int, str]) -> None:
    """A line for each change of a link or of targets. `names` are those of the cross-connections, by number."""

    def shown(connection: int, side: Side) -> dict[str, str | int]:
        return {"cross_connection": names.get(connection, connection), "side": side.name.lower()}

    for (
        change
    ) in changes:  # the kind alone in the patterns: a pattern with all fields reads them all before it compares
        match change:
            case Set(kind="links"):
                where = shown(change.value.connection, change.value.side)
                log.info("link set", extra={"slot": change.key, "state": change.value.state.name.lower(), **where})
            case Set(kind="targets"):
                log.info("targets set", extra=shown(*change.key))
            case Clear(kind="links"):
                log.info("link cleared", extra={"slot": change.key})
            case Clear(kind="targets"):
                log.info("targets cleared", extra=shown(*change.key))
