"""How slots are handed out."""

from __future__ import annotations

import pytest

from controller.node.cni.answer import CniError, Code
from controller.node.cni.slots import Slots
from controller.node.plane.model import SLOTS

EVERY_SLOT = set(range(1, SLOTS))


def take(slots: Slots) -> int:
    with slots.take("telco") as slot:
        return slot


def test_every_slot_rests_until_all_others_had_their_turn() -> None:
    slots = Slots(lambda: (), dict)

    first, second = [take(slots) for _ in range(SLOTS - 1)], [take(slots) for _ in range(SLOTS - 1)]

    assert set(first) == EVERY_SLOT
    assert first == second


def test_a_slot_that_a_link_carries_is_not_given_out() -> None:
    slots = Slots(lambda: EVERY_SLOT - {7, 9}, dict)

    taken = {take(slots) for _ in range(10)}

    assert taken == {7, 9}


def test_a_slot_whose_link_is_being_made_is_not_given_out_a_second_time() -> None:
    take_for = Slots(lambda: EVERY_SLOT - {7, 9}, dict).take

    with take_for("a") as first, take_for("b") as second, pytest.raises(CniError), take_for("c"):
        pass

    assert {first, second} == {7, 9}


def test_a_full_node_is_refused_with_its_remedy() -> None:
    slots = Slots(lambda: EVERY_SLOT, lambda: {"telco": 95, "greedy": 4000})
    message = "all 4095 data links of this node are in use, 4000 of them by namespace greedy: spread"

    with pytest.raises(CniError, match=message) as refused:
        take(slots)

    assert refused.value.code == Code.NO_SLOT_LEFT


def test_a_slot_freed_on_a_full_node_is_found() -> None:
    used = set(EVERY_SLOT)
    slots = Slots(lambda: used, dict)
    with pytest.raises(CniError):
        take(slots)

    used.discard(1234)

    assert take(slots) == 1234


def test_a_namespace_gets_no_more_slots_than_are_free_and_another_one_does() -> None:
    held = {"greedy": 0, "telco": 5}
    slots = Slots(lambda: (), lambda: held)
    with pytest.raises(CniError) as refused:
        for _ in range(SLOTS):
            with slots.take("greedy"):
                held["greedy"] += 1

    assert held["greedy"] == 2046
    assert refused.value.code == Code.NO_SLOT_LEFT
    assert "namespace greedy has 2046 of the 4095 data links of this node, and 2044 are free" in str(refused.value)
    assert take(slots)


def test_links_that_are_being_made_count() -> None:
    slots = Slots(lambda: (), lambda: {"greedy": 2047})

    with slots.take("greedy"), pytest.raises(CniError, match="has 2048 of"), slots.take("greedy"):
        pass
