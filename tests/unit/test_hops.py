"""A replica claims to serve only when traffic passes: a replica serves on the other side of each of its hops, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.desired import desired
from controller.node.plane.drain import Drain
from controller.node.plane.far import FarReplica, FarSides, identity
from controller.node.plane.model import SLOTS, DataPlane, LinkState, by_pod
from controller.node.plane.plan import Plan, State
from controller.node.plane.replica import replica_of
from controller.node.report.conditions import conditions
from kube.conditions import Condition
from sfc.chain import Side
from sfc.reading import chain_of
from tests.unit.objects import chain, link, pod

INTERFACES = {
    "client": ("lan",),
    "firewall": ("left", "right"),
    "nat": ("inside", "outside"),
    "server": ("wan",),
}
Json = dict[str, Any]


def replica(stage: str, number: int = 1, **more: Any) -> Json:
    return pod(f"{stage}-{number}", stage, interfaces=INTERFACES[stage], **more)


def node(
    *pods: Json, drains: Mapping[str, Drain] | None = None, obj: Json | None = None, far: FarSides | None = None
) -> State:
    """A node with these replicas, each with its links."""
    replicas = [each for each in map(replica_of, pods) if each]
    own = {each.uid: each for each in replicas}
    of = Cluster({("telco", "edge"): chain_of(obj or chain())}, own, far={("telco", "edge"): far or {}})
    ends = [(each.name, name) for each in replicas for name in INTERFACES[each.stage]]
    links = by_pod(link(slot, *end) for slot, end in enumerate(ends, 1))
    return State(of, desired(of, links, drains or {}, DataPlane(), Plan()), drains or {})


def seen(state: State) -> dict[str, Condition]:
    return {replica.name: condition for replica, condition in conditions(state)}


def reasons(state: State) -> dict[str, str]:
    return {name: str(condition.reason) for name, condition in seen(state).items()}


def test_all_of_a_whole_chain_serve() -> None:
    whole = node(*map(replica, INTERFACES))

    assert reasons(whole) == dict.fromkeys(("client-1", "firewall-1", "nat-1", "server-1"), "Serving")


def test_a_replica_without_neighbours_is_in_its_targets_and_not_ready() -> None:
    """A spare pod on a node of its own: the pod that works elsewhere must not leave for it."""
    spare = node(replica("firewall"))

    condition = seen(spare)["firewall-1"]

    assert {entry.state for entry in spare.plane.links.values()} == {LinkState.SERVING}
    assert (condition.status, condition.reason) == (False, "HopOpen")
    assert condition.message == (
        "in its targets, but no traffic passes from firewall.left to client.lan: stage client has no serving replica "
        "on this node or on one that its tunnel reaches; see kubectl describe pods -l sfc.dev/stage=client; in its "
        "targets, but no traffic passes from firewall.right to nat.inside: stage nat has no serving replica on this "
        "node or on one that its tunnel reaches; see kubectl describe pods -l sfc.dev/stage=nat"
    )


def test_replicas_of_other_nodes_close_a_hop() -> None:
    connections = [each.name for each in chain_of(chain()).cross_connections]
    beyond = {
        (connections[0], Side.UPSTREAM): (FarReplica("uid-client-9", identity(1, 5, 0), SLOTS),),
        (connections[1], Side.DOWNSTREAM): (FarReplica("uid-nat-9", identity(1, 6, 0), SLOTS + 1),),
    }

    alone = node(replica("firewall"), far=beyond)

    assert reasons(alone) == {"firewall-1": "Serving"}
    assert {index: link.identity for index, link in alone.plane.far.items()} == {
        SLOTS: identity(1, 5, 0),
        SLOTS + 1: identity(1, 6, 0),
    }


@pytest.mark.parametrize(("distribution", "targets"), [(None, {1, SLOTS}), ("PreferSameNode", {1})])
def test_with_prefer_same_node_targets_name_other_nodes_only_where_this_one_serves_none(
    distribution: str | None, targets: set[int]
) -> None:
    connections = [each.name for each in chain_of(chain()).cross_connections]
    beyond = {
        (connections[0], Side.UPSTREAM): (FarReplica("uid-client-9", identity(1, 5, 0), SLOTS),),
        (connections[1], Side.DOWNSTREAM): (FarReplica("uid-nat-9", identity(1, 6, 0), SLOTS + 1),),
    }
    obj = chain()
    obj["spec"] |= {"trafficDistribution": distribution} if distribution else {}

    here = node(replica("client"), replica("firewall"), far=beyond, obj=obj)

    numbers = {of.connection: number for of, number in here.plan.numbers.of.items()}
    serving = here.plan.parts["telco", "edge"].serving
    assert {index for _, index in serving[numbers[connections[0]], Side.UPSTREAM]} == targets
    assert {index for _, index in serving[numbers[connections[1]], Side.DOWNSTREAM]} == {SLOTS + 1}
    assert reasons(here) == {"client-1": "Serving", "firewall-1": "Serving"}


@pytest.mark.parametrize(
    ("absent", "open_for"),
    [
        ("client", {"firewall-1"}),
        ("firewall", {"client-1", "nat-1"}),
        ("nat", {"firewall-1", "server-1"}),
        ("server", {"nat-1"}),
    ],
)
def test_the_neighbours_of_an_absent_stage_are_not_ready_and_nobody_else(absent: str, open_for: set[str]) -> None:
    found = reasons(node(*(replica(stage) for stage in INTERFACES if stage != absent)))

    assert {name for name, reason in found.items() if reason == "HopOpen"} == open_for
    assert set(found.values()) == {"HopOpen", "Serving"}


@pytest.mark.parametrize(
    "leaving", [Drain("uid-nat-1", 0, 30, out_of_targets_at=0), Drain("uid-nat-1", 0, 30, ended_at=1)]
)
def test_a_replica_that_leaves_closes_no_hop(leaving: Drain) -> None:
    pods = [*map(replica, INTERFACES)]

    alone = node(*pods, drains={leaving.pod_uid: leaving})
    with_another = node(*pods, replica("nat", 2), drains={leaving.pod_uid: leaving})

    assert [reasons(alone)[name] for name in ("firewall-1", "server-1")] == ["HopOpen", "HopOpen"]
    assert [reasons(with_another)[name] for name in ("firewall-1", "server-1")] == ["Serving", "Serving"]


def test_stages_that_come_up_together_are_all_ready_whichever_container_is_first() -> None:
    """Whether a replica is a target depends on its own containers only, so nobody waits for anybody's condition."""
    order = ["server", "client", "nat", "firewall"]
    ready: set[str] = set()
    for stage in order:
        ready.add(stage)
        state = node(*(replica(each, ready=each in ready) for each in INTERFACES))
        states = {entry.state for entry in state.plane.links.values()}
        assert (states == {LinkState.SERVING}) == (len(ready) == len(order))

    assert set(reasons(state).values()) == {"Serving"}


def test_who_waits_for_whose_containers_is_said_by_both() -> None:
    """They may wait for each other: each one's probe goes through the chain to the other."""
    waiting = seen(node(replica("client"), replica("firewall", ready=False), replica("nat", ready=False)))

    assert waiting["firewall-1"].message == (
        "linked; receives sessions once its containers are ready; stage nat on this node waits for its containers, "
        "too: if one waits for traffic through the other, set publishNotReadyAddresses: true for stage firewall"
    )
    assert waiting["nat-1"].message.endswith(": true for stage nat")
    assert waiting["client-1"].message == (
        "in its targets, but no traffic passes from client.lan to firewall.left: firewall-1 of stage firewall on this "
        "node waits for its containers; if they wait for stage client in turn, set publishNotReadyAddresses: true for "
        "stage firewall"
    )


def test_a_replica_that_waits_beside_neighbours_that_serve_waits_for_itself_alone() -> None:
    pods = [*map(replica, INTERFACES), replica("firewall", 2, ready=False), replica("nat", 2, ready=False)]

    said = seen(node(*pods))["firewall-2"]

    assert (said.reason, said.message) == (
        "ContainersNotReady",
        "linked; receives sessions once its containers are ready",
    )


def test_an_interface_in_no_link_is_no_hop() -> None:
    obj = chain()
    obj["spec"]["stages"][1]["interfaces"].append({"name": "spare"})
    obj["spec"]["links"] = [["client.lan", "firewall.left"], ["firewall.right", "nat.inside"]]
    obj["spec"]["links"].append(["nat.outside", "server.wan"])

    assert set(reasons(node(*map(replica, INTERFACES), obj=obj)).values()) == {"Serving"}


def publishing(*stages: str) -> Json:
    """The chain with stages whose replicas get sessions before they are ready."""
    obj = chain()
    for stage in obj["spec"]["stages"]:
        if stage["name"] in stages:
            stage["publishNotReadyAddresses"] = True
    return obj


def test_stages_whose_readiness_depends_on_each_other_come_up_when_one_of_them_publishes_its_replicas() -> None:
    """The firewall's probe reaches the NAT through the chain, and the NAT's the firewall."""

    def states(state: State, name: str) -> set[LinkState]:
        slots = [link.slot for link in state.links[f"uid-{name}"]]
        return {state.plane.links[slot].state for slot in slots}

    pods = [replica("client"), replica("firewall", ready=False), replica("nat", ready=False), replica("server")]

    waiting, going = node(*pods), node(*pods, obj=publishing("firewall"))

    assert LinkState.SERVING not in states(waiting, "firewall-1") | states(waiting, "nat-1")
    assert states(going, "firewall-1") == {LinkState.SERVING}
    assert reasons(going) == {
        "client-1": "Serving",
        "firewall-1": "HopOpen",
        "nat-1": "ContainersNotReady",
        "server-1": "HopOpen",
    }
    both = node(*pods, obj=publishing("firewall", "nat"))
    assert set(reasons(both).values()) == {"Serving"}


@pytest.mark.parametrize(
    "containers",
    [
        [],
        [{"state": {"waiting": {"reason": "PodInitializing"}}}],
        [{"state": {"running": {}}}, {"state": {"waiting": {"reason": "ContainerCreating"}}}],
        [{"state": {"running": {}}}, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1}],
        [{"state": {"terminated": {"exitCode": 1}}}],
    ],
)
def test_a_published_replica_gets_no_session_before_its_containers_run(containers: list[Json]) -> None:
    starting = replica("firewall", ready=False, containerStatuses=containers)

    state = node(replica("client"), starting, replica("nat"), obj=publishing("firewall"))

    assert reasons(state)["firewall-1"] == "ContainersNotReady"
    assert state.plane.links[2].state != LinkState.SERVING


def test_a_published_replica_that_leaves_or_whose_interface_is_down_gets_none_either() -> None:
    drain = Drain("uid-firewall-1", 0, 30, out_of_targets_at=0)

    leaving = node(replica("firewall", ready=False), drains={drain.pod_uid: drain}, obj=publishing("firewall"))

    assert reasons(leaving) == {"firewall-1": "Draining"}
    assert {entry.state for entry in leaving.plane.links.values()} == {LinkState.DRAINING}
