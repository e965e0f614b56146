"""The node agent's view: chains with replicas here, parsed once a version and by the watch; an invalid edit is none."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.replica import replica_of
from controller.node.reconcile import cluster_view
from controller.node.reconcile.cluster_view import ClusterReader, ClusterView
from kube.api import ApiError
from kube.stored import StoredChain, stored_chain
from tests.unit.fake_api import FakeApi
from tests.unit.objects import chain, pod

KEY, OTHER, FIRST, SECOND = ("telco", "edge"), ("other", "edge"), ("telco", "nat-1"), ("telco", "nat-2")
FIRST_REPLICA = replica_of(pod("nat-1", "nat"))
assert FIRST_REPLICA
HERE = {FIRST: FIRST_REPLICA}


def stored(**spec: Any) -> StoredChain:
    obj = chain()
    obj["spec"].update(spec)
    return stored_chain(obj)


def refreshed(reader: ClusterReader, chains: dict[tuple[str, str], StoredChain]) -> Any:
    reader.refresh(chains)
    return reader.cluster(chains, HERE)


def test_a_chain_that_became_invalid_stays_as_it_was() -> None:
    reader = ClusterReader()
    valid = refreshed(reader, {KEY: stored()})

    assert refreshed(reader, {KEY: stored(stages=[])}).chains == valid.chains
    assert refreshed(ClusterReader(), {KEY: stored(stages=[])}).chains == {}


def test_a_chain_that_was_deleted_is_not_remembered() -> None:
    reader = ClusterReader()
    refreshed(reader, {KEY: stored()})

    assert refreshed(reader, {}).chains == {}


def test_only_chains_with_replicas_on_the_node_are_parsed_and_only_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[str] = []
    parse = cluster_view.parse
    monkeypatch.setattr(cluster_view, "parse", lambda obj: parsed.append(obj["metadata"]["namespace"]) or parse(obj))
    reader, first = ClusterReader(), stored()
    foreign = {("other", f"chain-{i}"): stored() for i in range(100)}

    before = refreshed(reader, {KEY: first, **foreign})
    after = refreshed(reader, {KEY: first, **{key: stored(drain={"deadlineSeconds": 7}) for key in foreign}})

    assert parsed == ["telco"]
    assert set(after.chains) == {KEY}
    assert after is before, "what happens to chains without replicas here is no change"


def test_a_pass_does_not_wait_for_a_chain_that_is_being_parsed() -> None:
    reader = ClusterReader()
    before = refreshed(reader, {KEY: stored()})
    changed = {KEY: stored(drain={"deadlineSeconds": 7})}

    assert reader.cluster(changed, HERE) is before
    reader.refresh(changed)
    assert reader.cluster(changed, HERE).chains[KEY].stages[0].drain_deadline_seconds == 7


def test_the_first_replica_of_a_chain_brings_its_chain() -> None:
    reader, chains = ClusterReader(), {KEY: stored()}
    reader.refresh(chains)

    assert reader.cluster(chains, {}).chains == {}
    assert set(reader.cluster(chains, HERE).chains) == {KEY}
    assert reader.cluster(chains, {}).chains == {}


def test_a_pod_that_lost_its_labels_is_still_seen_as_a_pod_and_one_that_was_deleted_is_not() -> None:
    reader, bare = ClusterReader(), pod("nat-1", "nat")
    del bare["metadata"]["labels"]["sfc.dev/chain"]
    before = reader.cluster({KEY: stored()}, HERE)

    after = reader.cluster({KEY: stored()}, {FIRST: replica_of(bare)})
    deleted = reader.cluster({KEY: stored()}, {})

    assert (set(before.replicas), set(before.others)) == ({"uid-nat-1"}, set())
    assert (set(after.replicas), set(after.others)) == (set(), {"uid-nat-1"})
    assert (set(deleted.replicas), set(deleted.others)) == (set(), set())


def test_what_did_not_change_is_the_same() -> None:
    chains, reader = {KEY: stored()}, ClusterReader()
    replicas = {**HERE, SECOND: replica_of(pod("nat-2", "nat"))}
    before = reader.cluster(chains, replicas)

    after = reader.cluster(chains, {**replicas, SECOND: replica_of(pod("nat-2", "nat", ready=False))})

    assert after.chains[KEY] is before.chains[KEY]
    assert after.replicas["uid-nat-1"] is before.replicas["uid-nat-1"]
    assert not after.replicas["uid-nat-2"].ready


def test_a_chain_that_can_not_be_read_stays_as_it_was_and_hides_no_other() -> None:
    reader = ClusterReader()
    here = {
        FIRST: replica_of(pod("nat-1", "nat")),
        SECOND: dataclasses.replace(HERE[FIRST], uid="uid-nat-2", chain="core"),
    }
    chains = {KEY: stored(), ("telco", "core"): stored()}
    reader.refresh(chains)
    before = reader.cluster(chains, here)
    strange = dataclasses.replace(stored(), spec=b"7")

    reader.refresh({**chains, KEY: strange})
    after = reader.cluster({**chains, KEY: strange}, here)

    assert after.chains == before.chains


def test_a_pod_that_can_not_be_read_stays_as_it_was() -> None:
    odd = pod("nat-1", "nat")
    odd["status"]["conditions"] = [{"status": "True"}]
    before = cluster_view.replica(pod("nat-1", "nat"), None)

    assert cluster_view.replica(odd, before) is before


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
    asked = api.queries(watch=False)[0]
    assert asked["fieldSelector"] == "spec.nodeName=node1"
    assert "labelSelector" not in asked, "a replica that lost its labels drains, too"
    assert "resourceVersion" not in asked, "the list must not be older than the request"


def test_nothing_is_known_before_other_nodes_reports_were_listed() -> None:
    """Otherwise an agent that starts would take all replicas of other nodes out of the targets for a moment."""
    api, changed = FakeApi(), threading.Event()
    view = ClusterView(api.client(), "node1", changed.set, lambda: None)
    view._chains.start()
    view._pods.start()
    while not (view._chains.synced and view._pods.synced):
        time.sleep(0.01)
    time.sleep(0.05)
    before = view.get()

    view._connections.start()
    woken = changed.wait(5)
    after = view.get()
    view.stop()
    api.close()

    assert before is None
    assert woken
    assert after == Cluster({}, {})
