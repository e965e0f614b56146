"""The node agent's view of snapshots: only changed objects are read, and an invalid edit keeps the last valid chain."""

from __future__ import annotations

from controller.node.reconcile.cluster_view import seen
from tests.unit.objects import chain, pod

KEY, FIRST, SECOND = ("telco", "edge"), ("telco", "nat-1"), ("telco", "nat-2")


def test_a_chain_that_became_invalid_stays_as_it_was() -> None:
    valid = seen({KEY: chain()}, {}, None)
    broken = chain()
    broken["spec"]["stages"][0]["interfaces"] = []

    assert seen({KEY: broken}, {}, valid).cluster.chains == valid.cluster.chains
    assert seen({KEY: broken}, {}, None).cluster.chains == {}


def test_a_chain_that_was_deleted_is_not_remembered() -> None:
    assert seen({}, {}, seen({KEY: chain()}, {}, None)).cluster.chains == {}


def test_what_did_not_change_is_not_read_again() -> None:
    chains, pods = {KEY: chain()}, {FIRST: pod("nat-1", "nat"), SECOND: pod("nat-2", "nat")}
    before = seen(chains, pods, None)

    after = seen(dict(chains), {**pods, SECOND: pod("nat-2", "nat", ready=False)}, before)

    assert after.cluster.chains[KEY] is before.cluster.chains[KEY]
    assert after.cluster.replicas["uid-nat-1"] is before.cluster.replicas["uid-nat-1"]
    assert not after.cluster.replicas["uid-nat-2"].ready


def test_snapshots_that_did_not_change_are_the_cluster_that_was_seen() -> None:
    chains, pods = {KEY: chain()}, {FIRST: pod("nat-1", "nat")}

    before = seen(chains, pods, None)

    assert seen(chains, pods, before) is before
