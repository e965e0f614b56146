"""Which links get the shortcut, and which lose it."""

from __future__ import annotations

import threading
from dataclasses import replace

from controller.node.plane.model import CHOSEN_IFINDEX, SLOTS, HostLink, by_pod
from controller.node.plane.plan import Plan, State
from controller.node.reconcile import shortcuts
from controller.node.reconcile.shortcuts import Shortcuts

OURS, FORMER = 100, 99


class Hooks:
    """The links of a node and what is at their hooks; refuses those in `refused`."""

    def __init__(self, *links: HostLink) -> None:
        self.links = {link.ifindex: link for link in links}
        self.refused: set[int] = set()
        self.done: list[int] = []
        self.shortcuts = Shortcuts(OURS, self.give, self.take)

    def give(self, ifindex: int) -> None:
        self._put(ifindex, (OURS,))

    def take(self, ifindex: int) -> None:
        self._put(ifindex, ())

    def _put(self, ifindex: int, numbers: tuple[int, ...]) -> None:
        self.done.append(ifindex)
        if ifindex in self.refused:
            raise OSError("not today")
        self.links[ifindex] = replace(self.links[ifindex], shortcuts=numbers)

    def state(self) -> State:
        return State(plan=Plan(links=by_pod(self.links.values())))

    def mend(self) -> list[tuple[int, ...]]:
        self.shortcuts.note(self.state())
        list(self.shortcuts.mend())
        return [link.shortcuts for link in self.links.values()]


def link(slot: int, numbers: tuple[int, ...] = (), filter_slot: int | None = 0, index: int = 0) -> HostLink:
    return HostLink(
        ifindex=index or CHOSEN_IFINDEX | 3 * SLOTS | slot,
        name=f"sfc{slot}",
        slot=slot,
        pod_uid=f"pod-{slot}",
        interface="net1",
        drain_id="",
        filter_slot=slot if filter_slot == 0 else filter_slot,
        shortcuts=numbers,
    )


def test_a_link_with_our_filter_has_this_agents_shortcut_alone() -> None:
    hooks = Hooks(link(1), link(2, (FORMER,)), link(3, (FORMER, OURS)), link(4, (OURS,)))

    assert hooks.mend() == [(OURS,)] * 4
    assert [ifindex % SLOTS for ifindex in hooks.done] == [1, 2, 3]


def test_a_link_without_our_filter_loses_it() -> None:
    hooks = Hooks(link(1, (OURS,), filter_slot=None), link(2, (FORMER,), filter_slot=None), link(3, filter_slot=None))

    assert hooks.mend() == [()] * 3
    assert [ifindex % SLOTS for ifindex in hooks.done] == [1, 2]


def test_a_link_whose_index_does_not_end_in_its_slot_has_none() -> None:
    """Of an earlier version, or of another slot."""
    hooks = Hooks(link(1, index=4097), link(2, (FORMER,), index=CHOSEN_IFINDEX | 1))

    assert hooks.mend() == [(), ()]


def test_a_link_that_is_refused_holds_up_no_other_and_is_tried_again() -> None:
    hooks = Hooks(link(1), link(2))
    hooks.refused = set(list(hooks.links)[:1])

    first = hooks.mend()
    hooks.refused = set()

    assert first == [(), (OURS,)]
    assert hooks.mend() == [(OURS,), (OURS,)]


def test_the_thread_mends_after_a_pass_that_has_listed_the_links_and_ends_when_it_is_told() -> None:
    hooks, stop, given = Hooks(link(1)), threading.Event(), threading.Event()
    keeper = Shortcuts(OURS, lambda _: given.set(), hooks.take)
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()

    before = given.wait(0.1)
    keeper.note(hooks.state())
    after = given.wait(5 * shortcuts.CALM_SECONDS)
    stop.set()
    thread.join(5 * shortcuts.CALM_SECONDS)

    assert (before, after, thread.is_alive()) == (False, True, False)
