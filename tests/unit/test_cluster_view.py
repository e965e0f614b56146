"""The node agent's view of snapshots: only changed objects are read, and an invalid edit keeps the last valid chain."""

from __future__ import annotations

import pytest

from controller.node.reconcile.cluster_view import ClusterReader, ClusterView
from kube.api import ApiError
from tests.unit.fake_api import FakeApi
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


def test_the_replicas_that_are_being_deleted_are_asked_for_and_not_taken_from_a_cache() -> None:
    api = FakeApi()
    leaving = pod("nat-1", "nat", terminating=True)
    api.lists.extend([[], 503])
    api.lists[0] = [
        {**each, "metadata": each["metadata"] | {"resourceVersion": "7"}} for each in (leaving, pod("nat-2", "nat"))
    ]
    view = ClusterView(api.client(), "node1", lambda: None, lambda: None)

    found = view.deleted()
    api.lists.popleft()
    with pytest.raises(ApiError):
        view.deleted()
    api.close()

    assert found == {"uid-nat-1"}
    assert api.queries(watch=False)[0] == {"fieldSelector": "spec.nodeName=node1", "labelSelector": "sfc.dev/chain"}
