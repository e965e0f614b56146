"""Orphans: when a link whose pod does not exist is removed, and when it must stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from controller.node.plane.model import HostLink, by_pod
from controller.node.plane.plan import Plan, State
from controller.node.plane.replica import replica_of
from controller.node.reconcile.orphans import Orphans
from kube.api import ApiError
from tests.unit.objects import link, pod
from tests.unit.test_conditions import state
from tests.unit.test_desired import ALL, LEFT2, RIGHT2, TWO_FIREWALLS

STRAY = link(9, "nobody-1", "lan")


class World:
    now = 0.0
    existing: Collection[str] = ()
    asked = 0

    def __init__(self, *links: HostLink) -> None:
        self.state = state(TWO_FIREWALLS, links=links)
        self.deleted: list[str] = []
        self.orphans = Orphans(self.delete, lambda: self.state, self.pods, lambda: self.now)

    def pods(self) -> Collection[str]:
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


def test_a_pod_that_the_watch_does_not_show_yet_keeps_its_links() -> None:
    world = World(*ALL, STRAY)
    world.existing = {STRAY.pod_uid}

    world.remove_after(0, 31, 62)

    assert world.deleted == []


def test_a_pod_that_only_lost_its_labels_is_no_orphan() -> None:
    """Its link is of the version before, which did not say what it was made for."""
    world, bare = World(*ALL, STRAY), pod("nobody-1", "client")
    del bare["metadata"]["labels"]
    assert world.state.cluster
    others = {STRAY.pod_uid: replica_of(bare)}
    world.state = replace(world.state, cluster=replace(world.state.cluster, others=others))

    world.remove_after(0, 31, 62)

    assert (world.deleted, world.asked) == ([], 0)


def test_the_api_server_is_not_asked_while_every_link_has_a_pod_or_is_new() -> None:
    world = World(*ALL)
    world.remove_after(0, 31)
    world.state = state(TWO_FIREWALLS, links=(*ALL, STRAY))
    world.remove_after(40, 60)

    assert world.asked == 0


def test_nothing_is_removed_while_the_api_server_does_not_answer_or_was_never_heard() -> None:
    world = World(*ALL, STRAY)
    world.remove_after(0)

    def away() -> Collection[str]:
        raise ApiError(0, "NoAnswer", "nobody there")

    unheard = Orphans(world.delete, lambda: State(None, Plan(by_pod((LEFT2, RIGHT2)))), world.pods, lambda: world.now)
    unheard.remove()
    refused = Orphans(world.delete, lambda: world.state, away, lambda: world.now)
    refused.remove()
    world.now = 31
    with pytest.raises(ApiError):
        refused.remove()
    unheard.remove()

    assert world.deleted == []
