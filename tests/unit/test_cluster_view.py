"""The node agent's view of snapshots: only changed objects are read, and an invalid edit keeps the last valid chain."""

from __future__ import annotations

from controller.node.reconcile.cluster_view import ClusterReader
from tests.unit.objects import chain, pod

KEY, FIRST, SECOND = ("telco", "edge"), ("telco", "nat-1"), ("telco", "nat-2")


def test_a_chain_that_became_invalid_stays_as_it_was() -> None:
    reader = ClusterReader()
    valid = reader.cluster({KEY: chain()}, {})
    broken = chain()
    broken["spec"]["stages"][0]["interfaces"] = []

    assert reader.cluster({KEY: broken}, {}).chains == valid.chains
    assert ClusterReader().cluster({KEY: broken}, {}).chains == {}


def test_a_chain_that_was_deleted_is_not_remembered() -> None:
    reader = ClusterReader()
    reader.cluster({KEY: chain()}, {})

    assert reader.cluster({}, {}).chains == {}


def test_what_did_not_change_is_not_read_again() -> None:
    chains, pods = {KEY: chain()}, {FIRST: pod("nat-1", "nat"), SECOND: pod("nat-2", "nat")}
    reader = ClusterReader()
    before = reader.cluster(chains, pods)

    after = reader.cluster(dict(chains), {**pods, SECOND: pod("nat-2", "nat", ready=False)})

    assert after.chains[KEY] is before.chains[KEY]
    assert after.replicas["uid-nat-1"] is before.replicas["uid-nat-1"]
    assert not after.replicas["uid-nat-2"].ready


def test_snapshots_that_did_not_change_are_the_cluster_that_was_seen() -> None:
    chains, pods = {KEY: chain()}, {FIRST: pod("nat-1", "nat")}

    reader = ClusterReader()
    before = reader.cluster(chains, pods)

    assert reader.cluster(chains, pods) is before


def test_an_object_that_can_not_be_read_stays_as_it_was_and_hides_no_other() -> None:
    reader = ClusterReader()
    before = reader.cluster({KEY: chain()}, {FIRST: pod("nat-1", "nat")})
    odd, strange = pod("nat-1", "nat"), chain()
    odd["status"]["conditions"] = [{"status": "True"}]
    strange["spec"] = 7

    after = reader.cluster({KEY: strange, ("telco", "core"): chain()}, {FIRST: odd, SECOND: pod("nat-2", "nat")})

    assert after.chains == {KEY: before.chains[KEY], ("telco", "core"): before.chains[KEY]}
    assert set(after.replicas) == {"uid-nat-1", "uid-nat-2"}
    assert after.replicas["uid-nat-1"] is before.replicas["uid-nat-1"]
