"""Who has to go when there are too many callers, and whose turn it is."""

from __future__ import annotations

from webhook.crowd import Crowd


def crowd(most: int, **callers: int) -> Crowd[str]:
    """So many callers of each address, named a1, a2 …"""
    made = Crowd[str](most)
    for address, amount in callers.items():
        for number in range(1, amount + 1):
            assert made.add(address, f"{address}{number}") is None
    return made


def test_the_greediest_address_loses_its_oldest_caller() -> None:
    full = crowd(5, a=1, b=3, c=1)

    assert full.add("c", "c2") == "b1"
    assert len(full) == 5


def test_an_address_with_few_callers_loses_none_to_one_with_many() -> None:
    full = crowd(4, honest=1, flood=3)

    gone = [full.add("flood", f"more{i}") for i in range(100)]

    assert "honest1" not in gone
    assert full.of("honest") == ["honest1"]


def test_addresses_take_turns() -> None:
    waiting = crowd(10, a=3, b=1, c=2)

    order = [found[1] for _ in range(6) if (found := waiting.next())]

    assert order == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert waiting.next() is None


def test_an_address_that_calls_for_the_first_time_goes_before_those_that_had_turns() -> None:
    waiting = crowd(10, a=3, b=3)
    for _ in range(4):
        waiting.next()

    waiting.add("new", "new1")

    assert waiting.next() == ("new", "new1")


def test_turns_of_a_bounded_number_of_addresses_are_remembered() -> None:
    waiting = Crowd[int](1)

    for number in range(10_000):
        waiting.add(str(number), number)
        waiting.next()

    assert len(waiting._turns) == 4096


def test_taking_out_gives_room() -> None:
    full = crowd(3, a=2, b=1)

    assert full.discard("a", "a1")
    assert not full.discard("a", "a1")
    assert full.add("c", "c1") is None
    assert sorted(full.all()) == ["a2", "b1", "c1"]
    assert len(full) == 0
