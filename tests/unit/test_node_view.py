"""What is known of the node, and how news of it makes the next pass look again."""

from __future__ import annotations

import threading

from controller.node.plane.plan import Plan
from controller.node.reconcile.node_view import NodeView
from tests.unit.objects import link
from tests.unit.test_reconciler import Node


class Overtaken(threading.Event):
    """News comes right after each look at whether there is any."""

    def is_set(self) -> bool:
        was = super().is_set()
        self.set()
        return was


def test_news_between_the_look_for_news_and_its_end_is_for_the_next_pass() -> None:
    node = Node(link(1, "client-1", "lan"))
    view = NodeView(node, node, lambda: 0.0)
    links, _ = view.observe(Plan(), verify=True)
    view.confirm(links)
    view._stale = Overtaken()

    view.confirm(view.observe(Plan(), verify=False)[0])
    node.links[2] = link(2, "client-2", "lan")
    seen, _ = view.observe(Plan(), verify=False)

    assert seen.keys() == {"uid-client-1", "uid-client-2"}
