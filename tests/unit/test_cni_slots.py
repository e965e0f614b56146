"""How slots are handed out."""

from __future__ import annotations

import pytest

from controller.node.cni.answer import CniError, Code
from controller.node.cni.slots import Slots
from controller.node.plane.model import SLOTS

EVERY_SLOT = set(range(1, SLOTS))


def take(slots: Slots) -> int:
    with slots.take() as slot:
        return slot


def test_every_slot_rests_until_all_others_had_their_turn() -> None:
    slots = Slots(lambda: ())

    first, second = [take(slots) for _ in range(SLOTS - 1)], [take(slots) for _ in range(SLOTS - 1)]

    assert set(first) == EVERY_SLOT
    assert first == second


def test_a_slot_that_a_link_carries_is_not_given_out() -> None:
    slots = Slots(lambda: EVERY_SLOT - {7, 9})

    taken = {take(slots) for _ in range(10)}

    assert taken == {7, 9}


def test_a_slot_whose_link_is_being_made_is_not_given_out_a_second_time() -> None:
    slots = Slots(lambda: EVERY_SLOT - {7, 9})

    with slots.take() as first, slots.take() as second, pytest.raises(CniError), slots.take():
        pass

    assert {first, second} == {7, 9}


def test_a_full_node_is_refused_with_its_remedy() -> None:
    slots = Slots(lambda: EVERY_SLOT)

    with pytest.raises(CniError, match="all 4095 data links of this node are in use: spread") as refused:
        take(slots)

    assert refused.value.code == Code.NO_SLOT_LEFT


def test_a_slot_freed_on_a_full_node_is_found() -> None:
    used = set(EVERY_SLOT)
    slots = Slots(lambda: used)
    with pytest.raises(CniError):
        take(slots)

    used.discard(1234)

    assert take(slots) == 1234
