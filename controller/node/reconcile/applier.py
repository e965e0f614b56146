"""How a change is carried out on the kernel, and how it is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from controller.node.plane.changes import Change, Clear, Forget, Kind, Set
from controller.node.plane.model import PROGRAM
from controller.node.plane.numbers import Numbered
from controller.node.plane.plan import Plan
from controller.node.plane.refusals import Outcome, carried_out
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
        self._unlearned: set[int] = set()
        """Cross-connections whose neighbours these changes have begun to change."""

    def apply(self, changes: Iterable[Change], before: Plan, wanted: Plan) -> Outcome:
        """Carries out the changes from `before` to `wanted`, one after the other. If the change of a chain raises, the
        rest of that chain's changes is left out, and no other's."""
        self._unlearned.clear()
        return carried_out(changes, self._carry_out, before, wanted)

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
            case "far":
                self._datapath.set_far_link(key, value)
            case "members":
                self._datapath.set_members(key, value)
            case "targets":
                connection, side = key
                self._datapath.set_targets(connection, side, value)
            case "numbers":
                self._datapath.set_number(key, value)
            case "patience":
                self._datapath.set_patience(key, value)
            case "session_keys":
                self._datapath.set_session_key(key, value)
            case "neighbours":
                connection, side, address = key
                self._unlearn(connection)
                self._datapath.set_neighbour(connection, side, address, value)
            case "filters":
                self._links.attach(key, value, self._datapath.program_fd, PROGRAM)
                self._node.filter_set(key)

    def _clear(self, kind: Kind, key: Any) -> None:
        match kind:
            case "links":
                self._datapath.clear_link(key)
            case "far":
                self._datapath.clear_far_link(key)
            case "members":
                self._datapath.clear_members(key)
            case "targets":
                self._datapath.clear_targets(*key)
            case "patience":
                self._datapath.clear_patience(key)
            case "session_keys":
                self._datapath.clear_session_key(key)
            case "neighbours":
                self._unlearn(key[0])
                self._datapath.clear_neighbour(*key)
            case "filters":
                self._links.detach(key)
                self._node.filter_cleared()

    def _unlearn(self, connection: int) -> None:
        """The chain has changed: what the program learned from the links before does not count any more."""
        if connection not in self._unlearned:
            self._datapath.unlearn(connection)
            self._unlearned.add(connection)


def log_changes(changes: Iterable[Change], names: Mapping[int, Numbered]) -> None:
    """A line for each change of a link or of targets. `names`: what the numbers of cross-connections stand for."""

    def shown(connection: int, side: Side) -> dict[str, str | int]:
        name = names[connection].path if connection in names else connection
        return {"cross_connection": name, "side": side.name.lower()}

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
