"""When frames between nodes pass the tunnel's device."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from controller.node.reconcile.tunnel import DirectWay

ADDRESS, PORT, PEER = "10.201.0.1", 5789, "10.201.0.2"


@dataclass
class Interface:
    ifindex: int
    reason: str = ""


@dataclass
class Node:
    """The kernel's side, and the maps."""

    now: Interface | Exception = field(default_factory=lambda: Interface(5))
    shortcuts: set[int] = field(default_factory=set)
    entry: tuple[str, int, int] = ("", 0, 0)
    leaves: dict[str, int] = field(default_factory=dict)

    @property
    def underlay(self) -> int:
        return self.entry[2]

    def interface(self) -> Interface:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def attach(self, ifindex: int) -> None:
        assert self.underlay == ifindex, "the program would not know yet what the shortcut gives it"
        self.shortcuts.add(ifindex)

    def detach(self, ifindex: int) -> None:
        self.shortcuts.discard(ifindex)

    def routes(self, peers: Iterable[str], interface: int) -> Mapping[str, int]:
        return dict.fromkeys(peers, interface)

    def set_underlay(self, address: str, port: int, ifindex: int) -> None:
        self.entry = (address, port, ifindex)

    def set_routes(self, routes: Mapping[str, int]) -> None:
        self.leaves.update(routes)

    def known(self) -> Mapping[str, int]:
        return {PEER: 1}


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def way(node: Node) -> DirectWay:
    return DirectWay(node, node, ADDRESS, PORT)


def test_they_do_where_the_node_allows_it(node: Node, way: DirectWay) -> None:
    way.look()

    assert (node.entry, node.shortcuts, node.leaves) == ((ADDRESS, PORT, 5), {5}, {PEER: 5})


def test_the_address_may_move_to_another_interface(node: Node, way: DirectWay) -> None:
    way.look()
    node.now = Interface(6)
    way.look()

    assert (node.underlay, node.shortcuts, node.leaves) == (6, {6}, {PEER: 6})


@pytest.mark.parametrize("now", [Interface(0, "policies"), OSError("netlink is silent")], ids=["forbidden", "unknown"])
def test_they_go_by_the_device_when_it_does_not_or_nobody_knows(
    node: Node, way: DirectWay, now: Interface | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    way.look()
    node.now = now
    with caplog.at_level(logging.WARNING):
        way.look()
        way.look()

    assert (node.underlay, node.shortcuts, node.leaves) == (0, set(), {PEER: 0})
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_agent_with_another_port_says_so_to_the_program(node: Node, way: DirectWay) -> None:
    node.entry = (ADDRESS, 4000, 5)

    way.look()

    assert node.entry == (ADDRESS, PORT, 5)
