"""What is known of the node: its links, their filters, and what the maps hold.

Only the leading agent changes the data path, so it is as the last pass left it, and a pass need not read it again. The
links are listed again when the kernel reports that one changed, or when a pass changed a filter. The maps are read
again after a pass that failed, and whenever the loop wants to verify them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from controller.node.plane.model import DataPlane, HostLink, LinksByPod, by_pod
from controller.node.plane.plan import Plan
from controller.node.reconcile.protocols import DataPathWriter, LinkFilters


class NodeView:
    """To be used by the thread that runs a pass; `links_changed` alone may be called by any thread, at any time."""

    def __init__(self, links: LinkFilters, datapath: DataPathWriter, clock: Callable[[], float]) -> None:
        self._links = links
        self._datapath = datapath
        self._clock = clock
        self.verified_at = clock()
        """When the maps were last read, on the clock."""
        self.other_programs: frozenset[int] = frozenset()
        """The kernel's numbers of other processes' programs that were in filters at the last listing. The plan replaces
        them with this process's program."""
        self._known: LinksByPod | None = None
        """The links as they were last listed; None after a pass that failed."""
        self._stale = threading.Event()
        self._own_program: set[int] = set()
        """Interfaces into whose filter this process has put its program. Others may have that of an earlier version."""

    def links_changed(self) -> None:
        """The next pass lists the links again."""
        self._stale.set()

    def observe(self, left: Plan, verify: bool) -> tuple[LinksByPod, DataPlane | None]:
        """The links, and what is in the data path; None when that is what the last pass left there.

        `left` is the plan that the last pass carried out. With `verify`, links and maps are read in any case. Until
        `confirm` is called, nothing counts as known: only a pass that succeeds leaves something to rely on.
        """
        known, self._known = self._known, None
        if stale := self._stale.is_set():
            self._stale.clear()  # only after it was seen: news that comes now is for the next pass, or this listing
        if known is not None and not verify and not stale:
            return known, None
        links = self._links.list()
        self._own_program &= {link.ifindex for link in links}
        self.other_programs = frozenset(
            link.program for link in links if link.program and link.ifindex not in self._own_program
        )
        if known is not None and not verify:
            plane = left.plane
        else:
            plane, self.verified_at = self._datapath.observe(left.plane.targets), self._clock()
        filters = {link.ifindex: self._filter_slot(link) for link in links if link.filter_slot is not None}
        return by_pod(links), replace(plane, filters=filters)

    def confirm(self, links: LinksByPod) -> None:
        """A pass for these links has succeeded: they are known, and the data path is as its plan."""
        self._known = links

    def filter_set(self, ifindex: int) -> None:
        """The pass has put this process's program into the link's filter."""
        self._own_program.add(ifindex)
        self._stale.set()

    def filter_cleared(self) -> None:
        """The pass has removed a filter."""
        self._stale.set()

    def _filter_slot(self, link: HostLink) -> int:
        """For another process's program 0, which is no link's slot: the plan sets the filter, and so replaces the
        program."""
        return (link.filter_slot or 0) if link.ifindex in self._own_program else 0
