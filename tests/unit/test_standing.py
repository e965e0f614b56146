"""One function says whether a replica serves, to the data path and to the pod's condition."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.desired import desired
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, HostLink, LinkState, by_pod
from controller.node.plane.plan import Plan, State
from controller.node.plane.replica import Replica, replica_of
from controller.node.report.conditions import conditions
from kube.conditions import Condition
from sfc.reading import chain_of
from tests.unit.objects import chain, link, pod

BOTH = ("left", "right")
LEFT, RIGHT = link(2, "firewall-1", "left"), link(3, "firewall-1", "right")
NEIGHBOURS = [replica_of(pod("client-1", "client")), replica_of(pod("nat-1", "nat"))]
THEIRS = (link(1, "client-1", "lan"), link(6, "nat-1", "inside"), link(7, "nat-1", "outside"))
"""Replicas on the other sides of the firewall's hops."""


def firewall(*interfaces: str) -> dict[str, Any]:
    """The chain, whose stage firewall has these interfaces. The first two are linked as ever; a third one leads to a
    stage of its own."""
    obj = chain()
    obj["spec"]["stages"][1]["interfaces"] = [{"name": name} for name in interfaces]
    obj["spec"]["links"] = [
        ["client.lan", f"firewall.{interfaces[0]}"],
        [f"firewall.{interfaces[1]}", "nat.inside"],
        ["nat.outside", "server.wan"],
    ]
    if len(interfaces) > 2:
        obj["spec"]["stages"].append({"name": "monitor", "interfaces": [{"name": "tap"}]})
        obj["spec"]["links"].append([f"firewall.{interfaces[2]}", "monitor.tap"])
    return obj


def seen(obj: dict[str, Any], of: dict[str, Any], *links: HostLink) -> tuple[set[LinkState], Condition]:
    """The states of the firewall's links in the data path, and its condition."""
    replica = replica_of(of)
    assert replica
    return states_and_condition(carried_out(obj, replica, links), links)


def states_and_condition(state: State, links: tuple[HostLink, ...]) -> tuple[set[LinkState], Condition]:
    found = {state.plane.links[link.slot].state for link in links if link.slot in state.plane.links}
    return found, next(condition for replica, condition in conditions(state) if replica.name == "firewall-1")


def carried_out(
    obj: dict[str, Any], replica: Replica, links: tuple[HostLink, ...], drains: dict[str, Drain] | None = None
) -> State:
    members = {each.uid: each for each in (replica, *NEIGHBOURS) if each}
    of = Cluster({("telco", "edge"): chain_of(obj)}, members)
    return State(of, desired(of, by_pod((*links, *THEIRS)), drains or {}, DataPlane(), Plan()), drains or {})


def test_a_linked_interface_that_a_stage_gets_leaves_its_running_replicas_serving() -> None:
    running = pod("firewall-1", "firewall", interfaces=BOTH)

    states, condition = seen(firewall("left", "right", "mirror"), running, LEFT, RIGHT)

    assert states == {LinkState.SERVING}
    assert (condition.status, condition.reason) == (True, "Serving")
    assert condition.message == (
        "in the targets of 2 cross-connection(s); its stage has got mirror since it was made: restart its workload "
        "(kubectl rollout restart) to have it, too"
    )


def test_an_interface_that_a_stage_loses_leaves_its_running_replicas_serving_on_the_others() -> None:
    running = pod("firewall-1", "firewall", interfaces=(*BOTH, "mirror"))

    states, condition = seen(firewall(*BOTH), running, LEFT, RIGHT, link(4, "firewall-1", "mirror"))

    assert states == {LinkState.SERVING}
    assert (condition.status, condition.reason) == (True, "Serving")


def test_an_interface_that_has_another_name_in_the_chain_takes_the_replica_out_of_all_targets_and_says_so() -> None:
    """Admission refuses it; a chain may be deleted and made again with other names, though."""
    running = pod("firewall-1", "firewall", interfaces=BOTH)

    states, condition = seen(firewall("lan0", "right"), running, LEFT, RIGHT)

    assert states == {LinkState.GONE}
    assert (condition.status, condition.reason) == (False, "Outdated")
    assert condition.message.startswith("made with interface left, which its stage does not have any more: restart")


def test_a_pod_without_any_link_is_not_linked_whatever_its_annotation_says() -> None:
    _, condition = seen(chain(), pod("firewall-1", "firewall"))

    assert (condition.status, condition.reason) == (False, "NotLinked")
    assert condition.message == "interface left, right has no link on the node"


@pytest.mark.parametrize("made_with", [(), BOTH, (*BOTH, "mirror"), ("left", "old")])
@pytest.mark.parametrize("wanted", [BOTH, (*BOTH, "mirror"), ("left", "lan0")])
@pytest.mark.parametrize("links", [(), (LEFT,), (LEFT, RIGHT)])
def test_the_condition_is_true_when_and_only_when_the_data_path_serves(
    made_with: tuple[str, ...], wanted: tuple[str, ...], links: tuple[HostLink, ...]
) -> None:
    for ready, drained in itertools.product((True, False), (None, False, True)):
        replica = replica_of(pod("firewall-1", "firewall", ready=ready, interfaces=made_with))
        assert replica
        ended = 1.0 if drained else None
        drains = {} if drained is None else {replica.uid: Drain(replica.uid, 0, 30, ended_at=ended)}
        state = carried_out(firewall(*wanted), replica, links, drains)

        states, condition = states_and_condition(state, links)

        assert condition.status == (states == {LinkState.SERVING})
