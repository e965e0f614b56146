"""What goes wrong with one chain, in the kernel or in planning, stays in it: all others go on in the same pass."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane import maglev
from controller.node.plane.cluster import Cluster
from controller.node.plane.desired import desired
from controller.node.plane.model import DataPlane, LinkState, by_pod
from controller.node.plane.numbers import Numbered
from controller.node.plane.plan import Plan, State
from controller.node.reconcile.reconciler import Reconciler
from controller.node.report.conditions import conditions, node_status
from controller.node.report.troubles import LASTING_SECONDS, Troubles, troubles
from sfc.chain import Chain, Side
from sfc.reading import chain_of
from tests.unit import objects
from tests.unit.test_contests import Api
from tests.unit.test_numbers import node as two_stage_node
from tests.unit.test_reconciler import Clock
from tests.unit.test_reconciler import Node as Maps

FULL = OSError(errno.E2BIG, os.strerror(errno.E2BIG))
WRITES = (
    "set_number",
    "set_patience",
    "set_session_key",
    "set_link",
    "set_targets",
    "set_neighbour",
    "forget",
    "clear_targets",
    "clear_link",
    "attach",
)
REFUSED = ("set_number", "set_patience", "set_session_key", "set_link", "set_targets", "set_neighbour", "attach")


def with_addresses(name: str, created: str = "2026-01-01T00:00:00Z") -> Chain:
    stages = [
        {"name": stage, "interfaces": [{"name": "eth", "addresses": [f"10.1.0.{host}/24"]}]}
        for stage, host in (("one", 1), ("two", 2))
    ]
    metadata = {"namespace": "telco", "name": name, "uid": f"uid-{name}", "creationTimestamp": created}
    return chain_of(
        {"metadata": metadata, "spec": {"stages": stages, "drain": {"idle": {"udp": 60}}, "sessionKey": "addresses"}}
    )


BAD, GOOD, LATE = with_addresses("bad"), with_addresses("good"), with_addresses("late")
BAD_SLOTS, GOOD_SLOTS = {1, 2}, {3, 4}


class Refusing(Maps):
    """A node whose kernel refuses the writes `refused` of the chain `bad`; it counts them."""

    def __init__(self, *chains: Chain) -> None:
        self.cluster, links = two_stage_node(*chains)
        super().__init__(*(replace(link, filter_slot=None) for link in links))
        self.numbers.clear()
        self.refused: set[str] = set()
        self.refusals = 0
        self.reads = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._guarded(name, found) if name in WRITES else found

    def _guarded(self, name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            if name in self.refused and self._is_bad(name, *arguments):
                self.refusals += 1
                raise FULL
            return write(*arguments)

        return guarded

    def _is_bad(self, name: str, first: int, *rest: Any) -> bool:
        if name == "set_number":
            return bool(rest[0].connection.startswith("bad."))
        if name in ("set_link", "clear_link"):
            return first in BAD_SLOTS
        if name == "attach":
            return first - 100 in BAD_SLOTS
        return self.numbers.get(first, Numbered("", "", "")).connection.startswith("bad.")

    def observe(self, known: object = None) -> Any:
        self.reads += 1
        return super().observe(known)

    def states(self, slots: set[int]) -> set[LinkState | None]:
        return {self.entries[slot].state if slot in self.entries else None for slot in slots}


def served(node: Refusing, slots: set[int]) -> bool:
    """Both links serve, and a table of each side names them."""
    numbers = {entry.connection for slot, entry in node.entries.items() if slot in slots}
    return node.states(slots) == {LinkState.SERVING} and all((n, side) in node.tables for n in numbers for side in Side)


@pytest.mark.parametrize("order", [(BAD, GOOD), (GOOD, BAD)], ids=["before", "after"])
@pytest.mark.parametrize("write", REFUSED)
def test_a_refused_write_of_one_chain_keeps_no_other_from_joining_in_the_same_pass(
    write: str, order: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_slots = BAD_SLOTS if order[0] is BAD else GOOD_SLOTS
    good_slots = (BAD_SLOTS | GOOD_SLOTS) - bad_slots
    monkeypatch.setitem(globals(), "BAD_SLOTS", bad_slots)
    node = Refusing(*order)
    node.refused = {write}
    reconciler = Reconciler(node, node, lambda: node.cluster)

    reconciler.reconcile()

    assert served(node, good_slots)
    assert not served(node, bad_slots)
    assert set(reconciler.state.refused) == {("telco", "bad")}
    assert "Argument list too long" in reconciler.state.refused["telco", "bad"].message


@pytest.mark.parametrize("write", REFUSED)
def test_when_the_kernel_accepts_it_again_the_next_pass_does_the_rest_and_reads_nothing(write: str) -> None:
    node, whole = Refusing(BAD, GOOD), Refusing(BAD, GOOD)
    Reconciler(whole, whole, lambda: whole.cluster).reconcile()
    reconciler = Reconciler(node, node, lambda: node.cluster)
    node.refused = {write}
    reconciler.reconcile()
    reconciler.reconcile(verify=False)
    reads = node.reads

    node.refused = set()
    reconciler.reconcile(verify=False)

    assert node.reads == reads == 1
    assert (node.entries, node.tables, node.macs, node.numbers, node.patience) == (
        whole.entries,
        whole.tables,
        whole.macs,
        whole.numbers,
        whole.patience,
    )
    assert len(whole.patience) == 2
    assert reconciler.state.refused == {}


def test_while_one_chain_is_refused_others_come_and_leave_as_ever() -> None:
    node = Refusing(BAD, GOOD, LATE)
    everything, node.cluster = node.cluster, without(node.cluster, "late")
    node.refused = {"set_targets"}
    reconciler = Reconciler(node, node, lambda: node.cluster)
    for _ in range(3):
        reconciler.reconcile(verify=False)

    node.cluster = everything
    reconciler.reconcile(verify=False)
    joined = served(node, {5, 6})
    node.cluster = without(everything, "good")
    for slot in GOOD_SLOTS:
        del node.links[100 + slot]
    reconciler.links_changed()
    reconciler.reconcile(verify=False)

    assert joined
    assert node.states(GOOD_SLOTS) == {None}
    assert len(node.forgotten) == 1
    assert node.reads == 1, "a refusal makes no pass read everything again"


def without(cluster: Cluster, chain: str) -> Cluster:
    left = {uid: replica for uid, replica in cluster.replicas.items() if replica.chain != chain}
    return Cluster({key: one for key, one in cluster.chains.items() if key[1] != chain}, left)


def test_a_number_that_cannot_be_forgotten_is_not_handed_out_and_tried_again() -> None:
    node = Refusing(BAD, GOOD)
    everything, node.cluster = node.cluster, without(node.cluster, "good")
    reconciler = Reconciler(node, node, lambda: node.cluster)
    reconciler.reconcile()
    (number,) = (number for number, name in node.numbers.items() if name.connection.startswith("bad."))
    node.refused = {"forget"}

    node.cluster = without(everything, "bad")
    for slot in BAD_SLOTS:
        del node.links[100 + slot]
    reconciler.links_changed()
    reconciler.reconcile(verify=False)
    tried = node.refusals
    reconciler.reconcile(verify=False)
    held = dict(node.numbers)
    node.refused = set()
    reconciler.reconcile(verify=False)

    assert (tried, node.refusals) == (1, 2)
    assert len(held) == 2, held
    assert number in node.forgotten
    assert list(node.numbers.values()) == [name for n, name in held.items() if n != number]


def test_what_cannot_be_cleared_of_a_chain_that_left_is_cleared_later_and_its_number_freed_last() -> None:
    node = Refusing(BAD, GOOD)
    everything = node.cluster
    reconciler = Reconciler(node, node, lambda: node.cluster)
    reconciler.reconcile()
    node.refused = {"clear_targets"}

    node.cluster = without(everything, "bad")
    for slot in BAD_SLOTS:
        del node.links[100 + slot]
    reconciler.links_changed()
    reconciler.reconcile(verify=False)
    kept = (len(node.tables), len(node.numbers))
    node.refused = set()
    reconciler.reconcile(verify=False)

    assert kept == (4, 2)
    assert (len(node.tables), len(node.numbers)) == (2, 1)
    assert node.states(BAD_SLOTS) == {None}


def test_a_drain_of_a_refused_chain_is_not_taken_for_carried_out_until_its_deadline() -> None:
    clock, node = Clock(), Refusing(BAD, GOOD)
    reconciler = Reconciler(node, node, lambda: node.cluster, clock)
    reconciler.reconcile()
    node.refused = {"set_targets", "clear_targets"}

    node.cluster = replace(
        node.cluster,
        replicas={uid: replace(one, terminating=one.stage == "one") for uid, one in node.cluster.replicas.items()},
    )
    reconciler.reconcile()
    out = {uid: drain.out_of_targets_at for uid, drain in reconciler.state.drains.items()}
    clock.now += 31
    reconciler.reconcile()

    assert (out["uid-bad-one"], out["uid-good-one"]) == (None, 1000.0)
    assert all(drain.ended for drain in reconciler.state.drains.values())


def test_a_refusal_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="controller.node.reconcile.reconciler")
    node = Refusing(BAD, GOOD)
    reconciler = Reconciler(node, node, lambda: node.cluster)
    node.refused = {"set_link"}
    for _ in range(3):
        reconciler.reconcile(verify=False)
    node.refused = set()
    reconciler.reconcile(verify=False)

    assert [(record.message, record.__dict__["chain"]) for record in caplog.records] == [
        ("part of a chain refused; all others go on", "telco/bad"),
        ("the chain's part is in the data path now", "telco/bad"),
    ]


def test_a_chain_whose_planning_raises_keeps_its_links_and_all_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Refusing(BAD, GOOD, LATE)
    everything, node.cluster = node.cluster, without(node.cluster, "late")
    reconciler = Reconciler(node, node, lambda: node.cluster)
    reconciler.reconcile()
    before = (dict(node.entries), dict(node.tables))
    made = maglev.table
    bad = {("uid-bad-one", 1)}
    monkeypatch.setattr(maglev, "table", lambda members: 1 // 0 if set(members) & bad else made(members))

    node.cluster = replace(
        everything,
        replicas={
            uid: replace(one, name="again") if one.chain == "bad" else one for uid, one in everything.replicas.items()
        },
    )
    for part in reconciler.state.plan.parts.values():
        part.serving.clear()  # type: ignore[attr-defined]  # no table of the last pass can be taken over
    reconciler.reconcile(verify=False)

    assert served(node, {5, 6})
    assert {slot: node.entries[slot] for slot in before[0]} == before[0]
    assert before[1].items() <= node.tables.items()
    (trouble,) = reconciler.state.plan.parts["telco", "bad"].troubles
    assert (trouble.reason, "ZeroDivisionError" in trouble.message) == ("NotPlanned", True)


def refused_state(node: Refusing, clock: Clock, seconds: float) -> Any:
    reconciler = Reconciler(node, node, lambda: node.cluster, clock)
    node.refused = {"set_link"}
    reconciler.reconcile()
    clock.now += seconds
    reconciler.reconcile()
    return reconciler.state


def test_the_condition_of_a_refused_replica_says_what_the_kernel_said_and_others_serve() -> None:
    node = Refusing(BAD, GOOD)

    found = {
        replica.name: condition for replica, condition in conditions(refused_state(node, Clock(), LASTING_SECONDS))
    }

    assert (found["bad-one"].status, found["bad-one"].reason) == (False, "DataPathRefused")
    assert "Argument list too long" in found["bad-one"].message
    assert (found["good-one"].status, found["good-one"].reason) == (True, "Serving")


def test_a_refusal_that_passes_at_once_is_not_reported() -> None:
    assert troubles(refused_state(Refusing(BAD, GOOD), Clock(), LASTING_SECONDS / 2)) == {}


def test_a_trouble_is_an_event_of_the_chain_written_once() -> None:
    api, state = Api(), refused_state(Refusing(BAD, GOOD), Clock(), LASTING_SECONDS)
    reporter = Troubles(api, "n1", lambda: state, Clock())

    reporter.look()
    reporter.look()

    (event,) = api.events.values()
    assert (event["involvedObject"]["name"], event["reason"], event["type"]) == ("bad", "DataPathRefused", "Warning")
    assert event["message"].startswith("node n1: the kernel refused a change")
    assert api.requests == 1


def crowded(name: str, addresses: int) -> Chain:
    far = [{"name": "eth", "addresses": [f"10.{1 + n // 250}.0.{n % 250 + 1}/8" for n in range(addresses)]}]
    stages = [{"name": "one", "interfaces": [{"name": "eth"}]}, {"name": "two", "interfaces": far}]
    return chain_of(
        {"metadata": {"namespace": "telco", "name": name, "uid": f"uid-{name}"}, "spec": {"stages": stages}}
    )


def test_a_chain_with_more_neighbours_than_its_share_gets_its_share_and_is_told() -> None:
    node = Refusing(crowded("bad", 1000), GOOD)
    reconciler = Reconciler(node, node, lambda: node.cluster)

    reconciler.reconcile()

    kept = [asked for asked in node.macs if node.numbers[asked[0]].connection.startswith("bad.")]
    assert len(kept) == 2 * 64
    assert served(node, BAD_SLOTS)
    assert served(node, GOOD_SLOTS)
    (trouble,) = troubles(reconciler.state)["telco", "bad"]
    assert trouble.reason == "NeighboursFull"
    assert "more neighbours than the 128 that this node answers for (links here: 2)" in trouble.message
    entries = node_status(reconciler.state, "n1")
    assert entries["telco", "bad.one.eth.two.eth"]["trouble"] == trouble.message
    assert "trouble" not in entries["telco", "good.one.eth.two.eth"]
    assert {condition.reason for _, condition in conditions(reconciler.state)} == {"Serving"}


def test_a_side_with_few_neighbours_leaves_its_half_to_the_other() -> None:
    node = Refusing(crowded("bad", 128), GOOD)
    reconciler = Reconciler(node, node, lambda: node.cluster)

    reconciler.reconcile()

    assert len([asked for asked in node.macs if node.numbers[asked[0]].connection.startswith("bad.")]) == 128
    assert troubles(reconciler.state) == {}


def test_a_replica_that_joins_raises_the_limit() -> None:
    node = Refusing(crowded("bad", 150))
    reconciler = Reconciler(node, node, lambda: node.cluster)
    reconciler.reconcile()
    before = len(node.macs)
    one = node.cluster.replicas["uid-bad-one"]
    more = replace(one, name="bad-one-2", uid="uid-bad-one-2")
    node.links[107] = objects.link(7, "bad-one-2", "eth")

    node.cluster = replace(node.cluster, replicas={**node.cluster.replicas, more.uid: more})
    reconciler.links_changed()
    reconciler.reconcile(verify=False)

    assert (before, len(node.macs)) == (128, 150)
    assert troubles(reconciler.state) == {}


def test_the_same_trouble_with_many_cross_connections_is_one_event_of_the_chain() -> None:
    far = [{"name": f"e{at}", "addresses": [f"10.{at}.{n}.1/8" for n in range(150)]} for at in range(2)]
    stages = [
        {"name": "one", "interfaces": [{"name": "a"}, {"name": "b"}]},
        {"name": "two", "interfaces": far},
    ]
    links = [["one.a", "two.e0"], ["one.b", "two.e1"]]
    metadata = {"namespace": "telco", "name": "bad", "uid": "uid-bad"}
    chain = chain_of({"metadata": metadata, "spec": {"stages": stages, "links": links}})
    one = Refusing(crowded("bad", 1)).cluster.replicas["uid-bad-one"]
    state = State(
        Cluster({("telco", "bad"): chain}, {one.uid: one}),
        desired(
            Cluster({("telco", "bad"): chain}, {one.uid: one}),
            by_pod([objects.link(1, "bad-one", "a"), objects.link(2, "bad-one", "b")]),
            {},
            DataPlane(),
            Plan(),
        ),
    )
    api = Api()

    Troubles(api, "n1", lambda: state, Clock()).look()

    (event,) = api.events.values()
    assert event["message"].startswith("node n1: CrossConnection bad.one.a.two.e0 has more neighbours than the 64")
    assert event["message"].endswith("; and so for 1 more of its CrossConnections")
