"""What two passes left behind, compared: which replica has had a transition, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane.drain import Drain
from controller.node.plane.plan import State
from controller.node.plane.replica import replica_of
from controller.node.plane.transitions import transitions
from sfc.reading import chain_of
from tests.unit.objects import chain, pod
from tests.unit.test_conditions import state
from tests.unit.test_desired import ALL, LEFT2, RIGHT2, TWO_FIREWALLS, cluster

OTHERS = (pod("client-1", "client"), pod("firewall-1", "firewall"))
SERVING = state(TWO_FIREWALLS)


def told(before: State, after: State) -> list[tuple[str, str]]:
    return [(transition.pod, transition.reason) for transition in transitions(before, after)]


def test_a_replica_joins_once_all_its_links_serve() -> None:
    starting = state(cluster(*OTHERS, pod("firewall-2", "firewall", ready=False)))
    joined = replace(SERVING, woken_at=10.0, written_at=10.002)

    found = list(transitions(starting, joined))

    assert [(transition.pod, transition.reason) for transition in found] == [("telco/firewall-2", "Joined")]
    assert found[0].seconds == pytest.approx(0.002)
    assert told(SERVING, SERVING) == []


def test_leaving_has_two_transitions_and_the_second_tells_what_was_left() -> None:
    asked = Drain("uid-firewall-2", asked_at=10.0, deadline=40.0, out_of_targets_at=10.003, active_sessions=2)
    ended = replace(asked, ended_at=40.0)
    draining, drained = (state(TWO_FIREWALLS, drains={"uid-firewall-2": drain}) for drain in (asked, ended))

    first, second = list(transitions(SERVING, draining)), list(transitions(draining, drained))

    assert [(transition.reason, round(transition.seconds, 3)) for transition in (*first, *second)] == [
        ("Draining", 0.003),
        ("Drained", 30.0),
    ]
    assert second[0].fields == {"sessions_left": 2}


def test_a_deadline_that_resets_says_so() -> None:
    asked = Drain("uid-firewall-2", asked_at=10.0, deadline=40.0, out_of_targets_at=10.003, active_sessions=2)
    ended = replace(asked, resets_at=40.0, ended_at=40.2)
    draining, drained = (state(TWO_FIREWALLS, drains={"uid-firewall-2": drain}) for drain in (asked, ended))

    (found,) = transitions(draining, drained)

    assert found.message == "the deadline has passed; its sessions are reset"
    assert found.fields == {"sessions_left": 2, "at_deadline": "reset"}


SHORTER = replace(chain_of(chain()), stages=chain_of(chain()).stages[:1], links=())
CRASHED = {"containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]}
DONE = pod("firewall-2", "firewall", ready=False, containerStatuses=[{"state": {"terminated": {"exitCode": 0}}}])
DONE["spec"] = {"restartPolicy": "Never"}
SHUT = (*ALL[:3], LEFT2, replace(RIGHT2, up=False))


BARE = replica_of({**pod("firewall-2", "firewall"), "metadata": {"namespace": "telco", "name": "f", "uid": "uid-f"}})


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        (state(cluster(*OTHERS, pod("firewall-2", "firewall", ready=False, **CRASHED))), "a container stopped"),
        (
            state(cluster(*OTHERS, pod("firewall-2", "firewall", ready=False))),
            "its containers are not ready; out of all targets, its sessions choose again",
        ),
        (
            state(cluster(OTHERS[0], *(pod(f"firewall-{n}", "firewall", ready=False) for n in (1, 2)))),
            "its containers are not ready; out of all targets, keeps its sessions",
        ),
        (state(cluster(*OTHERS, DONE)), "it has done its work and ended without an error; out of all targets"),
        (state(cluster(*OTHERS)), "the pod was deleted; "),
        (state(replace(cluster(*OTHERS), others={"uid-firewall-2": BARE})), "the pod lost its labels; "),
        (state(replace(TWO_FIREWALLS, chains={})), "chain edge was deleted, or is not valid; "),
        (
            state(replace(TWO_FIREWALLS, chains={("telco", "edge"): SHORTER})),
            "chain edge has no stage firewall any more; ",
        ),
        (state(TWO_FIREWALLS, links=SHUT), "an interface is down"),
        (state(TWO_FIREWALLS, links=ALL[:3]), "an interface vanished"),
    ],
)
def test_a_replica_that_ends_without_a_drain_is_steered_away_from_and_the_cause_is_told(after: Any, cause: str) -> None:
    transition = next(each for each in transitions(SERVING, after) if each.pod == "telco/firewall-2")

    assert (transition.pod, transition.reason) == ("telco/firewall-2", "SteeredAway")
    assert transition.message.startswith(cause)


def test_a_drain_for_a_restart_ends_with_joining_again() -> None:
    drain = Drain("uid-firewall-2", asked_at=0, deadline=30, out_of_targets_at=1, ended_at=2)

    assert told(state(TWO_FIREWALLS, drains={drain.pod_uid: drain}), SERVING) == [("telco/firewall-2", "Joined")]
