"""The order in which the maps get to what is desired."""

from __future__ import annotations

from dataclasses import replace

from controller.node.plane.changes import Change, Clear, Forget, Kind, Set, changes
from controller.node.plane.model import DataPlane
from controller.node.plane.plan import Plan
from sfc.chain import Patience, SessionKey
from tests.unit.objects import pod
from tests.unit.test_desired import (
    ALL,
    CLIENT_FIREWALL,
    EDGE,
    FIREWALL_NAT,
    NOTHING,
    TWO_FIREWALLS,
    cluster,
    draining,
    planned,
)


def what(change: Change) -> tuple[type, Kind | None]:
    """A change, less its key and its value."""
    return type(change), None if isinstance(change, Forget) else change.kind


def test_a_data_plane_that_is_as_desired_needs_no_change() -> None:
    wanted = planned(TWO_FIREWALLS, ALL, {})

    assert list(changes(wanted.plane, wanted)) == []
    assert list(changes(wanted, wanted)) == []


def test_links_are_made_before_targets_name_them() -> None:
    order = [what(change) for change in changes(NOTHING, planned(TWO_FIREWALLS, ALL, {}))]

    needed = [(Set, kind) for kind in ("links", "filters", "neighbours")]
    last = max(i for i, each in enumerate(order) if each in needed)
    assert last < order.index((Set, "targets"))


def test_session_keys_are_there_before_the_links_that_they_are_for_and_follow_their_chain() -> None:
    by = {
        key: planned(replace(TWO_FIREWALLS, chains={("telco", "edge"): replace(EDGE, session_key=key)}), ALL, {})
        for key in SessionKey
    }
    flow, addresses, inner = by[SessionKey.FLOW], by[SessionKey.ADDRESSES], by[SessionKey.INNER]

    order = [what(change) for change in changes(NOTHING, inner)]

    both = (CLIENT_FIREWALL, FIREWALL_NAT)
    assert order.count((Set, "session_keys")) == 2
    assert max(at for at, each in enumerate(order) if each == (Set, "session_keys")) < order.index((Set, "links"))
    assert list(changes(inner, addresses)) == [Set("session_keys", n, SessionKey.ADDRESSES) for n in both]
    assert {*changes(addresses, flow)} == {Clear("session_keys", number) for number in both}
    assert list(changes(flow.plane, flow)) == []


def test_patience_is_there_before_the_links_and_targets_that_it_is_for_and_follows_its_chain() -> None:
    patient, longer = (
        replace(TWO_FIREWALLS, chains={("telco", "edge"): replace(EDGE, patience=Patience(udp=seconds))})
        for seconds in (60, 90)
    )
    first, second, silent = (planned(of, ALL, {}) for of in (patient, longer, TWO_FIREWALLS))

    order = [what(change) for change in changes(NOTHING, first)]

    both = (CLIENT_FIREWALL, FIREWALL_NAT)
    assert order.count((Set, "patience")) == 2
    assert max(at for at, each in enumerate(order) if each == (Set, "patience")) < order.index((Set, "links"))
    assert list(changes(first, second)) == [Set("patience", number, Patience(udp=90)) for number in both]
    assert {*changes(second, silent)} == {Clear("patience", number) for number in both}
    assert list(changes(silent.plane, silent)) == []


def test_links_lose_their_sessions_only_after_no_target_names_them() -> None:
    """Otherwise a session could choose the link again."""
    hanging = cluster(
        pod("client-1", "client"), pod("firewall-1", "firewall"), pod("firewall-2", "firewall", ready=False)
    )

    order = [what(change) for change in changes(planned(TWO_FIREWALLS, ALL, {}), planned(hanging, ALL, {}))]

    assert order == [(Set, "targets")] * 2 + [(Set, "links")] * 2


def test_links_are_gone_only_after_no_target_names_them() -> None:
    attached = [replace(each, filter_slot=each.slot) for each in ALL]
    before = planned(TWO_FIREWALLS, attached, {})
    after = planned(TWO_FIREWALLS, attached, draining("firewall-1", ended=True))

    order = [what(change) for change in changes(before, after)]

    assert order == [(Set, "targets"), (Set, "targets"), (Set, "links"), (Set, "links")]


def test_tearing_down_takes_targets_first() -> None:
    order = [what(change) for change in changes(planned(TWO_FIREWALLS, ALL, {}), Plan())]

    targets = max(i for i, each in enumerate(order) if each == (Clear, "targets"))
    assert order.index((Clear, "links")) > targets


def test_a_program_is_replaced_only_when_the_maps_that_came_with_it_are_full() -> None:
    wanted = planned(TWO_FIREWALLS, ALL, {})
    older = DataPlane(filters=dict.fromkeys(wanted.plane.filters, 0))

    order = [what(change) for change in changes(older, wanted)]

    targets = max(i for i, each in enumerate(order) if each == (Set, "targets"))
    assert order.index((Set, "filters")) > targets
