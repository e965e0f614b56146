"""From objects, written in YAML, to the writes of the cluster controller."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from controller.cluster import plan
from controller.cluster.snapshot import chain_object, pod_of
from controller.cluster.store import Store
from controller.cluster.writes import Apply, Create, Delete, Outcome, Record, Withdraw, Write
from kube.objects import Object
from tests.unit import largest
from tests.unit.growth import steps

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)

CHAIN = """
apiVersion: sfc.dev/v1alpha1
kind: ServiceFunctionChain
metadata: {name: edge, namespace: telco, uid: chain-1, generation: 3}
spec:
  stages:
  - name: client
    interfaces: [{name: lan, addresses: [10.1.0.2/24]}]
  - name: firewall
    interfaces: [{name: left}, {name: right}]
  - name: server
    interfaces: [{name: wan, addresses: [10.1.0.1/24]}]
"""

Json = dict[str, Any]


def chain(**metadata: Any) -> Json:
    obj: Json = yaml.safe_load(CHAIN)
    obj["metadata"] |= metadata
    return obj


def pod(
    name: str,
    stage: str,
    *,
    wired: bool = True,
    leaving: bool = False,
    phase: str = "Running",
    node: str = "n1",
    reason: str = "",
) -> Json:
    obj: Json = yaml.safe_load(f"""
      metadata:
        name: {name}
        namespace: telco
        uid: uid-{name}
        resourceVersion: "7"
        labels: {{sfc.dev/chain: edge, sfc.dev/stage: {stage}}}
        annotations: {{k8s.v1.cni.cncf.io/networks: '[{{"name":"sfc"}}]'}}
      spec: {{nodeName: {node}}}
      status:
        phase: {phase}
        conditions: [{{type: sfc.dev/wired, status: "{wired}", reason: "{reason}"}}]
    """)
    if leaving:
        obj["metadata"]["deletionTimestamp"] = "2027-01-01T11:59:00Z"
    return obj


def serving() -> list[Json]:
    return [pod("c1", "client"), pod("f1", "firewall"), pod("s1", "server")]


@dataclass(frozen=True)
class Objects:
    """The cluster's objects, as raw JSON."""

    chains: Sequence[Object] = ()
    connections: Sequence[Object] = ()
    networks: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    nodes: Sequence[str] = ("node1", "node2")


def planned(cluster: Objects, now: datetime, **refused: str) -> list[Write]:
    """The writes of a pass over each chain and network. `refused`: the API server's words, by the name of a path."""
    store = store_of(cluster)
    return [write for where in sorted(store.keys()) for write in passed(store, where, now, refused)]


def passed(store: Store, where: tuple[str, str], now: datetime, refused: Mapping[str, str]) -> list[Write]:
    namespace, name = where
    if not name:
        return list(plan.network(store.place(namespace)))
    part = store.part(where)
    needed = list(plan.needed(part, now))
    words = {write.path: refused[kind] for write in needed for kind in refused if kind in getattr(write, "path", "")}
    created = [write for write in needed if isinstance(write, Create) and write.path not in words]
    outcome = Outcome(tuple(write.obj["metadata"]["name"] for write in created), (), words)
    return [*needed, *plan.told(part, outcome, now)]


def store_of(cluster: Objects) -> Store:
    store = Store()
    for obj in cluster.chains:
        store.chain(None, chain_object(obj))
    for obj in cluster.connections:
        store.connection(None, obj)
    for obj in cluster.networks:
        store.network(None, obj)
    for obj in cluster.pods:
        store.pod(None, pod_of(obj))
    for name in cluster.nodes:
        store.node(None, name)
    return store


def settle(cluster: Objects, now: datetime = NOW) -> tuple[Objects, list[Write]]:
    """Plan and apply until nothing is left to do, as the API server would."""
    made: list[Write] = []
    for _ in range(5):
        changes = planned(cluster, now)
        if not changes:
            return cluster, made
        made += changes
        cluster = applied(cluster, changes)
    raise AssertionError(f"plan never comes to rest: {changes}")


def applied(cluster: Objects, changes: list[Write]) -> Objects:
    """The cluster after these changes; only what the plan itself makes use of is imitated."""
    kinds = {
        "servicefunctionchains": by_key(cluster.chains),
        "crossconnections": by_key(cluster.connections),
        "network-attachment-definitions": by_key(cluster.networks),
    }
    for change in changes:
        if isinstance(change, Record):
            continue
        parts = change.path.split("/")
        place = parts.index("namespaces")
        found, where = kinds[parts[place + 2]], (parts[place + 1], parts[place + 3])
        if isinstance(change, Delete):
            del found[where]
        elif isinstance(change, Withdraw):
            nodes = found[where]["status"]["nodes"]
            found[where]["status"]["nodes"] = [node for node in nodes if node["name"] != change.node]
        elif parts[-1] == "status":
            found[where]["status"] = {**found[where].get("status", {}), **change.obj["status"]}
        else:
            found[where] = copy.deepcopy(dict(change.obj))
    chains, connections, networks = (tuple(objs.values()) for objs in kinds.values())
    return Objects(chains, connections, networks, cluster.pods, cluster.nodes)


def by_key(objs: Sequence[Object]) -> dict[tuple[str, str], Json]:
    return {key(obj): copy.deepcopy(dict(obj)) for obj in objs}


def key(obj: Any) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def status(cluster: Objects) -> Json:
    (obj,) = cluster.chains
    result: Json = obj["status"]
    return result


def ready(obj: Any) -> Json:
    (condition,) = obj["status"]["conditions"]
    result: Json = condition
    return result


def reasons(changes: list[Write]) -> list[str]:
    return [change.obj["reason"] for change in changes if isinstance(change, Record)]


def test_chain_gets_a_cross_connection_per_link_owned_by_it() -> None:
    cluster, _ = settle(Objects(chains=[chain()]))

    first, second = cluster.connections
    assert key(first) == ("telco", "edge.client.lan.firewall.left")
    assert key(second) == ("telco", "edge.firewall.right.server.wan")
    assert first["spec"] == {
        "chain": "edge",
        "upstream": {"stage": "client", "interface": "lan"},
        "downstream": {"stage": "firewall", "interface": "left"},
    }
    assert first["metadata"]["labels"] == {"sfc.dev/chain": "edge"}
    assert first["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "sfc.dev/v1alpha1",
            "kind": "ServiceFunctionChain",
            "name": "edge",
            "uid": "chain-1",
            "controller": True,
        }
    ]


def test_namespace_with_chains_gets_one_network_owned_by_all_of_them() -> None:
    chains = [chain(), chain(name="other", uid="chain-2")]

    cluster, _ = settle(Objects(chains=chains))

    (network,) = cluster.networks
    assert key(network) == ("telco", "sfc")
    assert [o["uid"] for o in network["metadata"]["ownerReferences"]] == ["chain-1", "chain-2"]
    assert not any(o.get("controller") for o in network["metadata"]["ownerReferences"])
    assert json.loads(network["spec"]["config"]) == {
        "cniVersion": "1.0.0",
        "name": "sfc",
        "type": "sfc",
        "capabilities": {"ips": True, "mac": True},
        "ipam": {"type": "static"},
    }


def test_network_loses_the_owner_that_is_gone() -> None:
    cluster, _ = settle(Objects(chains=[chain(), chain(name="other", uid="chain-2")]))
    left = Objects(cluster.chains[:1], cluster.connections[:2], cluster.networks)

    after, _ = settle(left)

    assert [o["uid"] for o in after.networks[0]["metadata"]["ownerReferences"]] == ["chain-1"]


def test_nothing_is_left_to_do_afterwards_not_even_later() -> None:
    cluster, _ = settle(Objects(chains=[chain()], pods=serving()))

    assert planned(cluster, LATER) == []


def test_chain_is_ready_when_every_stage_has_a_serving_replica() -> None:
    cluster, _ = settle(Objects(chains=[chain()], pods=serving()))

    assert ready(cluster.chains[0]) == {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 3,
        "lastTransitionTime": "2027-01-01T12:00:00Z",
        "reason": "AllStagesServe",
        "message": "every stage has a replica that serves",
    }
    assert status(cluster)["observedGeneration"] == 3
    assert status(cluster)["summary"] == "client 1/1, firewall 1/1, server 1/1"


def test_stages_count_replicas_by_what_they_do() -> None:
    pods = [
        pod("f1", "firewall"),
        pod("f2", "firewall", wired=False),
        pod("f3", "firewall", leaving=True),
        pod("f4", "firewall", phase="Failed"),
        pod("x1", "unknown"),
    ]

    cluster, _ = settle(Objects(chains=[chain()], pods=pods))

    assert status(cluster)["stages"][1] == {"name": "firewall", "replicas": 2, "serving": 1, "draining": 1}
    assert status(cluster)["summary"] == "client 0/0, firewall 1/2, server 0/0"


def test_pods_of_another_namespace_do_not_count() -> None:
    stranger = pod("c1", "client")
    stranger["metadata"]["namespace"] = "elsewhere"

    cluster, _ = settle(Objects(chains=[chain()], pods=[stranger]))

    assert status(cluster)["stages"][0]["replicas"] == 0


def test_empty_stages_are_named_with_the_remedy() -> None:
    pods = [pod("c1", "client"), pod("f1", "firewall", wired=False)]

    cluster, _ = settle(Objects(chains=[chain()], pods=pods))

    assert ready(cluster.chains[0])["reason"] == "StageEmpty"
    assert ready(cluster.chains[0])["message"] == (
        "no pod for server: label a workload sfc.dev/chain=edge,sfc.dev/stage=server, or scale up one that has these "
        "labels in its pod template; no serving replica of firewall: see kubectl describe pods -l "
        "'sfc.dev/chain=edge,sfc.dev/stage in (firewall)'"
    )


def without_neighbours(name: str, stage: str, node: str) -> Json:
    return pod(name, stage, node=node, wired=False, reason="HopOpen")


def reported(connection: Json, **nodes: tuple[list[str], list[str]]) -> None:
    """What the node agents report: by node, the pods that serve upstream and downstream."""

    def side(pods: list[str]) -> list[Json]:
        return [{"pod": name, "state": "serving"} for name in pods]

    connection["status"]["nodes"] = [
        {"name": node, "upstream": side(up), "downstream": side(down)} for node, (up, down) in nodes.items()
    ]


def test_a_chain_whose_stages_are_on_different_nodes_names_the_hop_that_is_open() -> None:
    """A rolling update brought the only firewall to a node without clients and servers."""
    pods = [pod("c1", "client", wired=False, reason="HopOpen"), without_neighbours("f2", "firewall", "n2")]
    pods.append(without_neighbours("s1", "server", "n2"))
    cluster, _ = settle(Objects(chains=[chain()], pods=pods))
    reported(cluster.connections[0], n1=(["c1"], []), n2=([], ["f2"]))
    reported(cluster.connections[1], n2=(["f2"], ["s1"]))

    after, _ = settle(cluster)

    condition = ready(after.chains[0])
    assert (condition["status"], condition["reason"]) == ("False", "HopOpen")
    assert condition["message"] == (
        "no node has a serving replica of every stage, and not all nodes with one have a tunnel to the others; on n2, "
        "the hop client.lan → firewall.left is open (none of client there): see the logs of the node agents for what "
        "their tunnels lack, or schedule the stages together"
    )
    assert status(after)["summary"] == "client 0/1, firewall 0/1, server 0/1"
    apart, whole = (ready(connection) for connection in after.connections)
    assert (apart["status"], apart["reason"]) == ("False", "HopOpen")
    assert apart["message"] == (
        "no node has serving replicas of both sides, and there is no tunnel between those that have (client.lan: n1; "
        "firewall.left: n2)"
    )
    assert (whole["status"], whole["reason"]) == ("True", "BothSidesServe")


def test_a_chain_over_nodes_with_tunnels_is_ready() -> None:
    pods = [pod("c1", "client"), pod("f2", "firewall", node="n2"), pod("s3", "server", node="n3")]
    cluster, _ = settle(Objects(chains=[chain()], pods=pods))
    reported(cluster.connections[0], n1=(["c1"], []), n2=([], ["f2"]))
    reported(cluster.connections[1], n2=(["f2"], []), n3=([], ["s3"]))
    for connection in cluster.connections:
        for number, node in enumerate(connection["status"]["nodes"]):
            node["address"] = f"10.0.0.{number}"

    after, _ = settle(cluster)

    assert ready(after.chains[0])["reason"] == "AllStagesServe"
    assert [ready(connection)["reason"] for connection in after.connections] == ["BothSidesServe"] * 2


def test_a_chain_is_ready_on_one_node_whatever_is_spare_on_others() -> None:
    pods = [*serving(), without_neighbours("f2", "firewall", "n2")]

    cluster, _ = settle(Objects(chains=[chain()], pods=pods))

    assert ready(cluster.chains[0])["reason"] == "AllStagesServe"
    assert status(cluster)["summary"] == "client 1/1, firewall 1/2, server 1/1"


def test_stages_that_serve_on_different_nodes_are_no_chain() -> None:
    """Each of them has neighbours where it is, and yet no packet comes from one end to the other."""
    clients = [pod("c1", "client"), without_neighbours("f1", "firewall", "n1")]
    servers = [without_neighbours("f2", "firewall", "n2"), pod("s2", "server", node="n2")]
    pods = [*clients, *servers, pod("f3", "firewall", node="n3")]

    cluster, _ = settle(Objects(chains=[chain()], pods=pods))

    assert ready(cluster.chains[0])["reason"] == "HopOpen"


def test_a_stage_that_waits_for_an_empty_one_is_not_called_empty() -> None:
    """What to do is to start a server."""
    pods = [pod("c1", "client"), without_neighbours("f1", "firewall", "n1")]

    cluster, _ = settle(Objects(chains=[chain()], pods=pods))

    assert ready(cluster.chains[0])["reason"] == "StageEmpty"
    assert ready(cluster.chains[0])["message"].startswith("no pod for server: label a workload")
    assert "firewall" not in ready(cluster.chains[0])["message"]


def test_transition_time_moves_only_when_the_status_does() -> None:
    before, _ = settle(Objects(chains=[chain()], pods=serving()))
    more = Objects(before.chains, before.connections, before.networks, [*serving(), pod("f2", "firewall")])
    fewer = Objects(before.chains, before.connections, before.networks, serving()[:2])

    grown, _ = settle(more, LATER)
    shrunk, _ = settle(fewer, LATER)

    assert ready(grown.chains[0])["lastTransitionTime"] == "2027-01-01T12:00:00Z"
    assert ready(shrunk.chains[0])["lastTransitionTime"] == "2027-01-01T12:05:00Z"


def test_cross_connection_totals_what_the_nodes_report() -> None:
    cluster, _ = settle(Objects(chains=[chain()], pods=[*serving(), pod("f2", "firewall", leaving=True)]))
    cluster.connections[0]["status"]["nodes"] = yaml.safe_load("""
      - name: node1
        upstream: [{pod: c1, uid: uid-c1, state: serving}]
        downstream: [{pod: f1, uid: uid-f1, state: serving}]
      - name: node2
        downstream: [{pod: f2, uid: uid-f2, state: draining}, {pod: gone, uid: uid-gone, state: serving}]
    """)

    after, changes = settle(cluster)

    reported = after.connections[0]["status"]
    assert reported["nodeCount"] == 2
    assert reported["upstream"] == {"end": "client.lan", "serving": 1, "draining": 0}
    assert reported["downstream"] == {"end": "firewall.left", "serving": 1, "draining": 1}
    assert ready(after.connections[0])["status"] == "True"
    assert ready(after.connections[1])["message"] == "no replica of firewall.right and none of server.wan serves"
    assert all("nodes" not in c.obj["status"] for c in changes if isinstance(c, Apply)), "nodes belong to their agents"


def test_a_report_about_an_earlier_pod_of_the_same_name_is_not_counted() -> None:
    """StatefulSets name a new pod like the one before."""
    cluster, _ = settle(Objects(chains=[chain()], pods=serving()))
    cluster.connections[0]["status"]["nodes"] = [
        {"name": "node1", "upstream": [{"pod": "c1", "uid": "uid-before", "state": "serving"}]},
        {"name": "node2", "downstream": [{"pod": "f1", "state": "serving"}]},
    ]

    after, _ = settle(cluster)

    assert after.connections[0]["status"]["upstream"]["serving"] == 0
    assert after.connections[0]["status"]["downstream"]["serving"] == 1, "agents of the version before write no UID"


def test_entries_of_a_node_that_vanished_are_withdrawn_once_its_pods_are_gone() -> None:
    nodes = [
        {"name": "node1", "downstream": [{"pod": "f1", "uid": "uid-f1", "state": "serving"}]},
        {"name": "node2", "upstream": [{"pod": "c1", "uid": "uid-c1", "state": "serving"}]},
    ]
    cluster, _ = settle(Objects(chains=[chain()], pods=serving()))
    cluster.connections[0]["metadata"]["uid"] = "xc-1"
    cluster.connections[0]["status"]["nodes"] = nodes
    pods = [one for one in serving() if one["metadata"]["name"] != "c1"]

    alive, _ = settle(replace(cluster, nodes=["node1"]))
    after, changes = settle(replace(cluster, nodes=["node1"], pods=pods))
    elsewhere, _ = settle(replace(cluster, pods=pods))

    (withdrawn,) = (change for change in changes if isinstance(change, Withdraw))
    assert alive.connections[0]["status"]["nodes"] == nodes
    assert (withdrawn.node, withdrawn.obj["metadata"]["uid"]) == ("node2", "xc-1")
    assert withdrawn.obj["status"] == {"nodes": []}
    assert after.connections[0]["status"]["nodes"] == nodes[:1]
    assert elsewhere.connections[0]["status"]["nodes"] == nodes, "a node that exists has an agent of its own"


def three_nodes(**unreachable: list[str]) -> Json:
    """The first CrossConnection, when f1 and f2 are on nodes of their own, and nodes report others."""
    cluster, _ = settle(Objects(chains=[chain()], pods=[*serving(), pod("f2", "firewall")]))
    cluster.connections[0]["status"]["nodes"] = yaml.safe_load("""
      - {name: n1, upstream: [{pod: c1, uid: uid-c1, state: serving}]}
      - {name: n2, downstream: [{pod: f1, uid: uid-f1, state: serving}]}
      - {name: n3, downstream: [{pod: f2, uid: uid-f2, state: serving}]}
    """)
    for node in cluster.connections[0]["status"]["nodes"]:
        node.update({"address": node["name"], "unreachable": unreachable.get(node["name"], [])})
    after, _ = settle(cluster)
    found: Json = after.connections[0]["status"]
    return found


def test_a_node_that_the_others_do_not_reach_is_not_counted() -> None:
    before, after = three_nodes(), three_nodes(n1=["n3"], n2=["n3"])

    assert (before["nodeCount"], before["downstream"]["serving"]) == (3, 2)
    assert (after["nodeCount"], after["downstream"]["serving"]) == (2, 1)


def test_nodes_that_live_and_do_not_reach_each_other_are_counted() -> None:
    one, both = three_nodes(n1=["n3"]), three_nodes(n1=["n3"], n2=["n3"], n3=["n1", "n2"])

    assert one["nodeCount"] == both["nodeCount"] == 3


def test_a_side_of_which_nobody_is_reached_is_empty() -> None:
    status = three_nodes(n2=["n1"], n3=["n1"])

    (condition,) = status["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "SideEmpty")


def test_a_node_that_vanishes_is_news_for_the_chains_that_it_reported_about() -> None:
    cluster, _ = settle(Objects(chains=[chain(), chain(name="other", uid="chain-2")], pods=serving()))
    cluster.connections[0]["metadata"]["uid"] = "xc-1"
    cluster.connections[0]["status"]["nodes"] = [{"name": "node2", "upstream": []}]
    store = store_of(cluster)

    assert store.node(None, "node3") == set()
    assert store.node("node2", None) == {("telco", "edge")}
    writes = passed(store, ("telco", "edge"), NOW, {})
    assert [write.node for write in writes if isinstance(write, Withdraw)] == ["node2"]


def test_removed_link_takes_its_cross_connection_with_it() -> None:
    cluster, _ = settle(Objects(chains=[chain()]))
    shorter = copy.deepcopy(dict(cluster.chains[0]))
    shorter["spec"]["stages"][1]["interfaces"] = [{"name": "only"}]
    del shorter["spec"]["stages"][2]

    after, changes = settle(Objects([shorter], cluster.connections, cluster.networks))

    assert [key(c)[1] for c in after.connections] == ["edge.client.lan.firewall.only"]
    assert len([c for c in changes if isinstance(c, Delete)]) == 2


def test_cross_connections_of_an_earlier_chain_of_this_name_are_replaced() -> None:
    before, _ = settle(Objects(chains=[chain()]))
    before.connections[0]["metadata"]["uid"] = "uid-of-the-first"
    again = Objects([chain(uid="chain-9")], before.connections, before.networks)

    changes = planned(again, NOW)

    first = [c for c in changes if "client.lan" in getattr(c, "path", "")]
    assert [type(c) for c in first] == [Delete, Create]
    assert first[0].uid == "uid-of-the-first", "or it might delete the one that another controller has just made"


def test_cross_connection_that_is_somebodys_own_is_left_alone() -> None:
    theirs: Json = yaml.safe_load("metadata: {name: mine, namespace: telco, labels: {sfc.dev/chain: edge}}")

    changes = planned(Objects(chains=[chain()], connections=[theirs]), NOW)

    assert not any(isinstance(c, Delete) for c in changes)


def test_chain_that_is_being_deleted_gets_nothing_more() -> None:
    leaving = chain(deletionTimestamp="2027-01-01T11:59:00Z")

    assert planned(Objects(chains=[leaving]), NOW) == []


def test_invalid_chain_says_every_problem_and_nothing_is_applied_of_it() -> None:
    bad = chain()
    bad["spec"]["stages"][0]["interfaces"][0]["addresses"] = ["10.1.0.2"]
    bad["spec"]["links"] = [["client.lan", "nowhere.wan"]]

    cluster, changes = settle(Objects(chains=[bad]))

    assert ready(cluster.chains[0])["reason"] == "Invalid"
    assert "spec.stages[0].interfaces[0].addresses[0]" in ready(cluster.chains[0])["message"]
    assert "nowhere" in ready(cluster.chains[0])["message"]
    assert not cluster.connections
    assert reasons(changes) == ["InvalidChain"]


def test_edit_that_makes_a_chain_invalid_cuts_nothing() -> None:
    cluster, _ = settle(Objects(chains=[chain()], pods=serving()))
    bad = copy.deepcopy(dict(cluster.chains[0]))
    bad["spec"]["links"] = [["client.lan", "nowhere.wan"]]

    after, _ = settle(Objects([bad], cluster.connections, cluster.networks, serving()))

    assert [key(c) for c in after.connections] == [key(c) for c in cluster.connections]


def test_one_invalid_chain_does_not_hold_up_another() -> None:
    bad = chain(name="bad", uid="chain-2")
    bad["spec"]["stages"] = []

    cluster, _ = settle(Objects(chains=[bad, chain()]))

    assert len(cluster.connections) == 2


def test_foreign_network_is_never_overwritten_and_the_chain_says_what_to_do() -> None:
    theirs: Json = yaml.safe_load("metadata: {name: sfc, namespace: telco}\nspec: {config: '{}'}")

    cluster, changes = settle(Objects(chains=[chain()], networks=[theirs], pods=serving()))

    assert cluster.networks == (theirs,)
    assert ready(cluster.chains[0])["reason"] == "NetworkConflict"
    assert "delete it" in ready(cluster.chains[0])["message"]
    assert "NetworkConflict" in reasons(changes)


def test_life_of_a_chain_as_events() -> None:
    new, first = settle(Objects(chains=[chain()]))
    up, second = settle(Objects(new.chains, new.connections, new.networks, serving()))
    _, third = settle(Objects(up.chains, up.connections, up.networks, serving()[:2]))

    assert reasons(first) == ["CrossConnectionsCreated", "ChainNotReady"]
    assert reasons(second) == ["ChainReady", "StageServing", "StageServing", "StageServing"]
    assert reasons(third) == ["ChainNotReady", "StageEmpty"]


def test_a_stage_whose_replicas_have_done_their_work_is_no_warning_and_one_whose_replicas_failed_is() -> None:
    up, _ = settle(Objects(chains=[chain()], pods=serving()))

    def ended(phase: str) -> dict[str, str]:
        pods = [pod("c1", "client"), without_neighbours("f1", "firewall", "n1"), pod("s1", "server", phase=phase)]
        changes = planned(Objects(up.chains, up.connections, up.networks, pods), LATER)
        return {c.obj["reason"]: c.obj["type"] for c in changes if isinstance(c, Record)}

    assert ended("Succeeded") == {"ChainNotReady": "Normal", "StageFinished": "Normal"}
    assert ended("Failed") == {"ChainNotReady": "Warning", "StageEmpty": "Warning"}


def test_repeated_event_has_the_same_name_and_that_of_a_new_chain_another() -> None:
    def event(obj: Json, now: datetime) -> str:
        _, changes = settle(Objects(chains=[obj]), now)
        name: str = next(c.obj["metadata"]["name"] for c in changes if isinstance(c, Record))
        return name

    first = event(chain(), NOW)

    assert event(chain(), LATER) == first
    assert event(chain(uid="chain-2"), NOW) != first


@pytest.mark.parametrize("order", [1, -1])
def test_order_of_objects_does_not_matter(order: int) -> None:
    chains = [chain(), chain(name="other", uid="chain-2"), chain(namespace="x", uid="chain-3")]

    straight, _ = settle(Objects(chains=chains, pods=serving()))

    assert planned(Objects(chains=chains[::order], pods=serving()), NOW) == planned(
        Objects(chains=chains, pods=serving()), NOW
    )
    assert planned(Objects(straight.chains[::-1], straight.connections, straight.networks, serving()), NOW) == []


def many(count: int) -> Objects:
    """So many chains of one namespace, with all that belongs to them."""
    chains = [largest.chain(4, 2, name=f"chain-{i}") for i in range(count)]
    return settle(Objects(chains=chains))[0]


def test_a_pass_over_a_chain_costs_the_same_among_four_times_as_many() -> None:
    small, large = store_of(many(5)), store_of(many(20))

    def one(store: Store) -> int:
        return steps(lambda: passed(store, ("telco", "chain-1"), NOW, {}))

    assert one(large) <= 1.02 * one(small)


def test_four_times_the_chains_of_a_namespace_cost_four_times_the_work() -> None:
    small, large = many(5), many(20)

    assert steps(lambda: planned(large, NOW)) <= 4.4 * steps(lambda: planned(small, NOW))


def test_what_the_api_server_refuses_is_said_in_its_words_and_nothing_else_is() -> None:
    quota = 'crossconnections.sfc.dev "x" is forbidden: exceeded quota: q, requested: count/crossconnections.sfc.dev=1'

    changes = planned(Objects(chains=[chain()], pods=serving()), NOW, crossconnections=quota)

    (obj,) = [c.obj for c in changes if getattr(c, "path", "").endswith("/status")]
    assert ready(obj)["reason"] == "ObjectsRefused"
    assert ready(obj)["message"] == (
        f"the API server refuses CrossConnection edge.client.lan.firewall.left and 1 more: {quota}; "
        "change what refuses it (a quota or a policy, for example): it is tried again, at least every 30 s"
    )
    assert [r for r in reasons(changes) if r != "StageServing"] == ["ObjectsRefused"]
    (event,) = [c.obj for c in changes if isinstance(c, Record) and c.obj["reason"] == "ObjectsRefused"]
    assert event["message"] == ready(obj)["message"]


def test_one_refused_cross_connection_is_named_and_the_others_are_said_to_be_made() -> None:
    changes = planned(Objects(chains=[chain()]), NOW, **{"edge.firewall.right": "no more"})

    (obj,) = [c.obj for c in changes if getattr(c, "path", "").endswith("/status")]
    assert "refuses CrossConnection edge.firewall.right.server.wan: no more;" in ready(obj)["message"]
    (event,) = [c.obj for c in changes if isinstance(c, Record) and c.obj["reason"] == "CrossConnectionsCreated"]
    assert event["message"] == "edge.client.lan.firewall.left"


def test_a_network_that_the_api_server_refuses_is_said_by_every_chain_that_needs_it() -> None:
    store = store_of(settle(Objects(chains=[chain(), chain(name="other", uid="chain-2")]))[0])
    there = store.place("telco").network
    store.network(there, None)

    assert store.refuse("telco", "exceeded quota: q") == {("telco", "edge"), ("telco", "other")}
    (status,) = [w.obj for w in passed(store, ("telco", "other"), NOW, {}) if isinstance(w, Apply)]
    assert ready(status)["reason"] == "ObjectsRefused"
    assert "refuses NetworkAttachmentDefinition sfc: exceeded quota: q;" in ready(status)["message"]
    assert store.refuse("telco", None) == {("telco", "edge"), ("telco", "other")}


def test_a_network_that_is_there_is_no_matter_when_its_update_is_refused() -> None:
    cluster, _ = settle(Objects(chains=[chain()], pods=serving()))
    store = store_of(cluster)
    store.refuse("telco", "a policy says no")

    assert passed(store, ("telco", "edge"), NOW, {}) == []


def test_a_cross_connection_on_its_way_out_is_waited_for() -> None:
    cluster, _ = settle(Objects(chains=[chain()]))
    cluster.connections[0]["metadata"]["deletionTimestamp"] = "2027-01-01T11:59:00Z"

    changes = planned(cluster, NOW)

    assert not any(isinstance(c, Create | Delete) for c in changes)
    (obj,) = [c.obj for c in changes if getattr(c, "path", "").endswith("chains/edge/status")]
    assert ready(obj)["reason"] == "CrossConnectionsMissing"


def test_a_chain_beyond_todays_bounds_is_followed_and_its_condition_says_what_to_do() -> None:
    stored = largest.chain(32, 5, addresses=0, routes=0)

    after, _ = settle(Objects(chains=[stored]))

    conditions = {c["type"]: c for c in after.chains[0]["status"]["conditions"]}
    assert len(after.connections) == 31
    assert conditions["WithinBounds"]["reason"] == "TooLarge"
    assert conditions["WithinBounds"]["message"] == (
        "followed as it is, but its next change must keep it within the bounds: "
        "spec.stages: have 160 interfaces in all, 128 are allowed; remove some, or divide the chain"
    )


def test_a_chain_within_the_bounds_has_no_condition_about_them() -> None:
    after, _ = settle(Objects(chains=[largest.chain(4, 2)]))

    assert "WithinBounds" not in {c["type"] for c in after.chains[0]["status"]["conditions"]}
