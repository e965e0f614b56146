"""The MTU between the nodes, as far as this node knows it."""

from __future__ import annotations

import pytest

from controller.node.reconcile.tunnel import TunnelKeeper


@pytest.mark.parametrize(("own", "others", "smallest"), [(1450, None, 1450), (1450, 8950, 1450), (8950, 1430, 1430)])
def test_interfaces_get_what_fits_through_the_smallest_end(own: int, others: int | None, smallest: int) -> None:
    keeper = TunnelKeeper(lambda: 7, lambda _: None, lambda: own, of_others=lambda: others)

    before = keeper.payload
    keeper.keep()

    assert (before, keeper.payload) == (None, own)
    assert keeper.mtu() == keeper.smallest() == smallest


def test_a_node_that_does_not_know_its_own_gives_none() -> None:
    """Then the interface gets the kernel's default; the log says so."""

    def fails() -> int:
        raise OSError("no interface of this node has its address")

    keeper = TunnelKeeper(lambda: 7, lambda _: None, fails, of_others=lambda: 1430)
    keeper.keep()

    assert keeper.mtu() is None
    assert not keeper.there
