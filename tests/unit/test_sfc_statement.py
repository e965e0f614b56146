"""The statement about one interface: what is signed, and how a call may differ from it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sfc.reading import chain_of
from sfc.statement import SIGNATURE, difference, message, statement
from tests.unit import objects

CHAIN = chain_of(objects.chain())
NAT = CHAIN.stages[2]
CALL: dict[str, Any] = {"namespace": "telco", "interface": "inside", "addresses": ["10.1.0.1/24"], "mac": "02:0a"}


def made(sign: Any = lambda _: "signed") -> dict[str, Any]:
    return statement(CHAIN, NAT, NAT.interfaces[0], "d1", sign)


def test_the_message_says_what_it_is_and_does_not_depend_on_the_order_of_the_arguments() -> None:
    arguments = made()

    again = json.loads(json.dumps(dict(sorted(arguments.items(), reverse=True))))

    assert message(again) == message(arguments)
    assert message(arguments).startswith(b"sfc statement 1\n{")


def test_a_statement_is_signed_whole() -> None:
    messages: list[bytes] = []

    arguments = made(lambda text: messages.append(text) or "signed")  # type: ignore[func-returns-value]

    assert messages == [message(arguments)]
    assert all(json.dumps(value).encode() in messages[0] for key, value in arguments.items() if key != SIGNATURE)


@pytest.mark.parametrize("name", [name for name in made() if name != SIGNATURE] + ["of a later version"])
def test_any_other_argument_makes_another_message(name: str) -> None:
    assert message(made() | {name: "other"}) != message(made())


def test_the_source_ports_come_later_and_are_not_signed() -> None:
    assert message(made() | {"sourcePorts": "1024-5055"}) == message(made())


def test_a_call_that_is_as_it_was_signed_does_not_differ() -> None:
    assert difference(CALL, **CALL) is None
    without = {key: value for key, value in CALL.items() if key != "addresses"}
    assert difference(without, **{**CALL, "addresses": []}) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", "attacker"),
        ("interface", "outside"),
        ("addresses", ["10.1.0.9/24"]),
        ("addresses", []),
        ("mac", "02:0b"),
    ],
)
def test_what_differs_is_named_with_what_was_signed(field: str, value: object) -> None:
    assert difference(CALL, **{**CALL, field: value}) == (field, CALL[field], value)


def test_a_statement_without_a_namespace_is_for_nobody() -> None:
    without = {key: value for key, value in CALL.items() if key != "namespace"}

    assert difference(without, **CALL) == ("namespace", None, "telco")
