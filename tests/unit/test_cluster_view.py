"""The node agent's view: chains with replicas here, parsed once a version and by the watch; an invalid edit is none."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from typing import Any, cast

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.replica import replica_of
from controller.node.reconcile import cluster_view
from controller.node.reconcile.cluster_view import ClusterReader, ClusterView
from kube.api import ApiError, ApiServer
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


class Reports:
    """An agent's view of what node agents report, event by event."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        api = cast("ApiServer", None)
        self.view = ClusterView(api, "node1", lambda: self.heard.append("links"), lambda: self.heard.append("status"))
        for watch in (self.view._chains, self.view._pods, self.view._connections):
            watch._last_word = 0.0
        self._version = 0

    def tell(self, watch: Any, obj: dict[str, Any], kind: str = "MODIFIED") -> None:
        """As the API server would, as JSON; what was heard of it is `heard`."""
        self._version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self._version)}
        line = json.dumps({"type": kind, "object": {**obj, "metadata": metadata}}).encode()
        event = watch._collection.shape.event(line)
        self.heard.clear()
        watch._take(event["type"], event["object"])

    def report(self, namespace: str, *nodes: str, slot: int = 7, **status: Any) -> None:
        link = {"pod": "nat-7", "uid": "uid-7", "state": "serving", "slot": slot, "generation": 0}
        entries = [{"name": name, "address": f"10.0.0.{name[-1]}", "upstream": [link]} for name in nodes]
        metadata = {"namespace": namespace, "name": "edge.nat.server", "uid": "uid-1"}
        obj = {"metadata": metadata, "spec": {"chain": "edge"}, "status": {**status, "nodes": entries}}
        self.tell(self.view._connections, obj)

    @property
    def published(self) -> dict[str, list[int]]:
        return {namespace: [each.slot for each in of] for (namespace, _), of in self.view.published().items()}


@pytest.fixture
def reports() -> Reports:
    told = Reports()
    told.tell(told.view._chains, chain())
    told.tell(told.view._pods, pod("nat-1", "nat"))
    return told


def test_reports_of_other_nodes_wake_the_agent_only_for_chains_that_are_here(reports: Reports) -> None:
    reports.report("telco", "node2")
    here = [*reports.heard]
    reports.report("other", "node2")
    reports.report("other", "node2", slot=8)

    assert here == ["links", "status"]
    assert reports.heard == []
    assert reports.published == {"telco": [7]}


def test_what_reports_say_beside_links_changes_no_links(reports: Reports) -> None:
    reports.report("telco", "node2")
    before = reports.view.published()
    reports.report("telco", "node2", conditions=[{"type": "Ready"}])

    assert reports.view.published() is before
    assert reports.heard == ["status"]


def test_the_first_replica_of_a_chain_finds_what_other_nodes_reported_before(reports: Reports) -> None:
    reports.report("other", "node2", slot=9)
    reports.tell(reports.view._chains, {**chain(), "metadata": {**chain()["metadata"], "namespace": "other"}})
    before = reports.published
    first = pod("nat-1", "nat")
    reports.tell(reports.view._pods, {**first, "metadata": {**first["metadata"], "namespace": "other", "uid": "uid-9"}})

    assert before == {}
    assert reports.published == {"other": [9]}
    assert reports.heard == ["links"]


def test_a_report_of_this_node_about_a_chain_that_it_has_no_more_is_seen_until_it_is_gone(reports: Reports) -> None:
    reports.report("other", "node1", "node2")
    stale = dict(reports.view.connections())
    heard = [*reports.heard]
    reports.report("other", "node2")

    assert stale["other", "edge.nat.server"][1] is not None
    assert (heard, reports.heard) == (["status"], ["status"])
    assert reports.view.connections() == {("other", "edge.nat.server"): ("uid-1", None)}


def test_a_report_that_can_not_be_read_leaves_the_links_as_they_were(reports: Reports) -> None:
    reports.report("telco", "node2")
    link: dict[str, Any] = {"state": "serving", "slot": 1}
    odd = {"metadata": {"namespace": "telco", "name": "edge.nat.server", "uid": "uid-1"}, "spec": {"chain": "edge"}}
    reports.tell(
        reports.view._connections,
        {**odd, "status": {"nodes": [{"name": "node2", "address": "10.0.0.2", "upstream": [link]}]}},
    )

    assert reports.published == {"telco": [7]}


def test_what_foreign_chains_report_is_kept_small(reports: Reports) -> None:
    """In a large cluster most reports are of chains that are not on the node, and each agent has them all."""
    reports.report("other", *[f"node{at}" for at in range(2, 42)])

    (foreign,) = reports.view._connections.snapshot().values()

    assert len(foreign.status) < 40 * 60, "a value for each of the 40 links takes 400 bytes"
    assert not reports.view._links._known
