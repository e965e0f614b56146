"""Orphans: when a link whose pod does not exist is removed, and when it must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane.model import HostLink, by_pod
from controller.node.plane.plan import Plan, State
from controller.node.plane.replica import Replica
from controller.node.reconcile.orphans import Orphans
from kube.api import ApiError
from tests.unit.objects import link, pod
from tests.unit.test_conditions import state
from tests.unit.test_desired import ALL, LEFT2, RIGHT2, TWO_FIREWALLS

STRAY = link(9, "nobody-1", "lan")


def without(*labels: str) -> dict[str, Any]:
    """The pod of STRAY, without these labels."""
    obj = pod("nobody-1", "client")
    for label in labels:
        del obj["metadata"]["labels"][label]
    return obj


class World:
    now = 0.0
    existing: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    asked = 0

    def __init__(self, *links: HostLink) -> None:
        self.state = state(TWO_FIREWALLS, links=links)
        self.deleted: list[str] = []
        self.former: list[Sequence[Replica]] = []
        self.orphans = Orphans(self.delete, lambda: self.state, self.pods, self.former.append, lambda: self.now)

    def pods(self) -> dict[str, dict[str, Any]]:
        self.asked += 1
        return self.existing

    def delete(self, name: str) -> None:
        self.deleted.append(name)

    def remove_after(self, *seconds: float) -> None:
        for at in seconds:
            self.now = at
            self.orphans.remove()


def test_a_link_whose_pod_does_not_exist_is_removed_after_a_while() -> None:
    world = World(*ALL, STRAY)

    world.remove_after(0, 20)
    early = list(world.deleted)
    world.remove_after(31)

    assert early == []
    assert world.deleted == [STRAY.name]


def test_a_pod_that_only_lost_its_labels_keeps_its_links() -> None:
    world = World(*ALL, STRAY)
    world.existing = {STRAY.pod_uid: without("sfc.dev/chain")}

    world.remove_after(0, 31, 62)

    assert world.deleted == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["sfc.dev/chain"], "no chain"), (["sfc.dev/stage"], "no stage of chain edge")],
)
def test_a_replica_that_lost_a_label_is_reported_as_what_it_was_made_for(labels: list[str], said: str) -> None:
    made = replace(STRAY, chain="edge", stage="client")
    world = World(*ALL, made)
    world.existing = {made.pod_uid: without(*labels)}

    world.remove_after(0, 31)
    world.state = state(TWO_FIREWALLS, links=ALL)
    world.remove_after(41)

    [reported] = world.former[1]
    assert (reported.path, reported.chain, reported.stage, reported.relabelled) == (
        "telco/nobody-1",
        "edge",
        "client",
        said,
    )
    assert [len(each) for each in world.former] == [0, 1, 0]


def test_the_api_server_is_not_asked_while_every_link_has_a_pod_or_is_new() -> None:
    world = World(*ALL)
    world.remove_after(0, 31)
    world.state = state(TWO_FIREWALLS, links=(*ALL, STRAY))
    world.remove_after(40, 60)

    assert world.asked == 0


def test_nothing_is_removed_while_the_api_server_does_not_answer_or_was_never_heard() -> None:
    world = World(*ALL, STRAY)
    world.remove_after(0)

    def away() -> dict[str, dict[str, Any]]:
        raise ApiError(0, "NoAnswer", "nobody there")

    unheard = Orphans(
        world.delete, lambda: State(None, Plan(by_pod((LEFT2, RIGHT2)))), world.pods, print, lambda: world.now
    )
    unheard.remove()
    refused = Orphans(world.delete, lambda: world.state, away, print, lambda: world.now)
    refused.remove()
    world.now = 31
    with pytest.raises(ApiError):
        refused.remove()
    unheard.remove()

    assert world.deleted == []
