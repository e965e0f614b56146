"""The webhook's validation of chains and of their updates and deletions, as pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit import objects
from webhook.decide import validate
from webhook.decide.model import AdmissionRequest, Decision


def invalid() -> dict[str, Any]:
    obj = objects.chain()
    obj["spec"]["stages"][0]["interfaces"][0]["addresses"] = ["10.1.0.2"]
    return obj


def served() -> dict[str, Any]:
    stages = [{"name": "nat", "replicas": 2, "serving": 2, "draining": 0}]
    return {**objects.chain(), "status": {"stages": stages}}


def decide(operation: str, obj: dict[str, Any], old: dict[str, Any] | None = None) -> Decision:
    return validate.chain(AdmissionRequest("u-1", operation, "telco", obj, old or {}))


def test_an_invalid_chain_is_denied_as_unprocessable() -> None:
    decision = decide("CREATE", invalid())

    assert decision.code == 422
    assert decision.denied == (
        "ServiceFunctionChain telco/edge is not valid: spec.stages[0].interfaces[0].addresses[0]: "
        '"10.1.0.2": has no prefix length; write 10.1.0.2/24, or whatever its network has'
    )


@pytest.mark.parametrize("change", [{"labels": {"a": "b"}}, {"finalizers": ["example.com/f"]}])
def test_an_update_that_leaves_the_spec_alone_is_allowed_whatever_the_spec_says(change: dict[str, Any]) -> None:
    obj = invalid()
    obj["metadata"] |= change

    assert decide("UPDATE", obj, invalid()) == Decision()


def test_an_update_of_an_invalid_spec_must_make_it_valid() -> None:
    worse = invalid()
    worse["spec"]["drain"] = {"deadlineSeconds": -1}

    assert decide("UPDATE", worse, invalid()).denied
    assert decide("UPDATE", objects.chain(), invalid()) == Decision()


def test_what_cannot_change_is_denied_with_the_reason() -> None:
    new = served()
    new["spec"]["stages"][2]["interfaces"][0]["addresses"] = ["10.1.0.9/24"]

    denied = decide("UPDATE", new, served()).denied

    assert denied == (
        "ServiceFunctionChain telco/edge is not valid: spec.stages[2].interfaces[0].addresses: "
        '"10.1.0.9/24": cannot change from "10.1.0.1/24" while stage "nat" has replicas (2): they keep what they were '
        "created with, and all replicas of a stage must have the same; scale its workload to 0 first, or give the "
        "stage another name"
    )


def test_a_deletion_is_never_denied_but_says_what_it_does() -> None:
    assert decide("DELETE", {}, invalid()) == Decision()
    (warning,) = decide("DELETE", {}, served()).warnings
    assert warning.startswith('stages that still have replicas: "nat" (2). They lose their traffic at once')


def test_warnings_of_an_update_are_of_the_new_chain_and_of_the_change() -> None:
    new = objects.chain()
    new["spec"]["stages"][2]["interfaces"][0]["mtu"] = 9000

    mtu, running = decide("UPDATE", new, objects.chain()).warnings

    assert mtu.startswith("the ends of a link differ in MTU")
    assert running.startswith('stage "nat": running pods keep')
