"""How large a chain may be, and that nothing that reads one costs more than its size.

Growth is measured by counting what Python executes, not by a clock: the count is the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sfc import annotation
from sfc.chain import Chain
from sfc.reading import chain_of
from sfc.validation import bounds, checks, fault, update, warnings
from sfc.validation.problem import listing
from tests.statements import SIGNER
from tests.unit import largest, objects
from tests.unit.growth import steps
from webhook.decide import validate
from webhook.decide.model import AdmissionRequest, Decision

Json = dict[str, Any]


def admitted(new: Json, old: Json | None = None) -> Decision:
    operation = "UPDATE" if old else "CREATE"
    return validate.chain(AdmissionRequest("uid", operation, "telco", new, old or {}))


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_the_largest_chain_is_valid_and_has_at_most_64_kib() -> None:
    obj = largest.chain()

    assert admitted(obj).denied is None
    assert 40 << 10 < len(json.dumps(obj, separators=(",", ":"))) <= 64 << 10


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (largest.chain(interfaces=5, addresses=0, routes=0), "have 160 interfaces in all, 128 are allowed"),
        (largest.chain(addresses=2, routes=0), "have 256 addresses in all, 128 are allowed"),
        (largest.chain(routes=3), "have 384 routes in all, 256 are allowed"),
    ],
)
def test_a_chain_beyond_a_bound_is_refused_with_field_number_and_remedy(obj: Json, message: str) -> None:
    denied = admitted(obj).denied

    assert denied == (
        f"ServiceFunctionChain telco/largest is not valid: spec.stages: {message}; remove some, or divide the chain"
    )


def test_bounds_are_reported_beside_all_other_problems() -> None:
    obj = largest.chain(interfaces=5, addresses=0, routes=0)
    obj["spec"]["drain"]["hook"] = "exec"

    denied = admitted(obj).denied or ""

    assert denied.startswith("ServiceFunctionChain telco/largest is not valid: 2 problems:")


def test_a_chain_that_was_stored_before_the_bounds_is_read_and_kept_until_its_next_change() -> None:
    stored = largest.chain(interfaces=fault.MAX_INTERFACES, addresses=1, routes=1)
    labelled = {**stored, "metadata": {**stored["metadata"], "labels": {"a": "b"}}}
    changed = {**stored, "spec": {**stored["spec"], "drain": {"deadlineSeconds": 5}}}

    assert len(checks.parse(stored).stages) == fault.MAX_STAGES
    assert admitted(labelled, stored).denied is None
    assert "have 256 interfaces in all" in (admitted(changed, stored).denied or "")
    assert admitted(objects.chain(), stored).denied is None


# --- growth -----------------------------------------------------------------------------------------------------------


def invalid(obj: Json) -> Json:
    """The same chain with a mistake in every part of it."""
    for stage in obj["spec"]["stages"]:
        for interface in stage["interfaces"]:
            interface |= {"mac": "00", "mtu": 1, "addresses": ["10.1.0.1/24"], "routes": [{"dst": "0.0.0.0/0"}]}
    obj["spec"]["links"] = [["nobody.lan", "nobody.wan"] for _ in obj["spec"]["links"]]
    return obj


def same_everywhere(obj: Json) -> Json:
    """One segment whose interfaces have one address each, all of one network."""
    for s, stage in enumerate(obj["spec"]["stages"]):
        stage["interfaces"] = stage["interfaces"][:2]
        if s % 2:
            stage["interfaces"][0] |= {"addresses": [f"2001:db8::{s + 1:x}/64"]}
    return obj


def strangers(obj: Json) -> Json:
    """One segment whose interfaces have one address each, no two of one network."""
    for s, stage in enumerate(obj["spec"]["stages"]):
        stage["interfaces"] = stage["interfaces"][:2]
        if s % 2:
            stage["interfaces"][0] |= {"addresses": [f"10.{s}.0.1/24"]}
        else:
            stage["interfaces"][0].pop("addresses", None)
    return obj


def nested(obj: Json) -> Json:
    """Each stage has networks that all lie in each other."""
    for stage in obj["spec"]["stages"]:
        for i, interface in enumerate(stage["interfaces"]):
            interface["addresses"] = [f"10.{i}.{a}.1/{8 + a}" for a in range(8)]
    return obj


def read(obj: Json) -> Chain:
    return checks.parse(obj)


def judged(obj: Json) -> object:
    return listing(checks.problems(obj) + bounds.excesses(obj))


def neighbours_of_all(obj: Json) -> object:
    chain = chain_of(obj)
    return [(chain.segment(ref), len(chain.neighbours(ref, 10_000))) for ref, _ in list(chain.interfaces())[:8]]


def warned(obj: Json) -> object:
    return warnings.warnings(chain_of(obj))


def updated(obj: Json) -> object:
    stages = [{"name": s["name"], "replicas": 1, "draining": 0} for s in obj["spec"]["stages"]]
    old = {**obj, "status": {"stages": stages}}
    new = json.loads(json.dumps(obj))
    for stage in new["spec"]["stages"]:
        stage["interfaces"][0]["mac"] = "02:00:00:00:ff:ff"
    change = update.Change.of(old, new)
    return update.update_problems(change), update.update_warnings(change)


def injected(obj: Json) -> object:
    chain = chain_of(obj)
    return [annotation.merge(None, annotation.ours(chain, stage, "d", SIGNER.sign), "telco") for stage in chain.stages]


@pytest.mark.parametrize("work", [read, judged, neighbours_of_all, warned, updated, injected])
@pytest.mark.parametrize("kind", ["largest", "transparent", "wide", "invalid", "one segment", "strangers", "nested"])
def test_four_times_the_chain_costs_four_times_the_work(work: Callable[[Json], object], kind: str) -> None:
    make: dict[str, Callable[[int], Json]] = {
        "largest": lambda stages: largest.chain(stages, 4, 1, 2),
        "transparent": lambda stages: largest.transparent(stages, 4),
        "invalid": lambda stages: invalid(largest.chain(stages, 4, 1, 2)),
        "one segment": lambda stages: same_everywhere(largest.transparent(stages, 2)),
        "strangers": lambda stages: strangers(largest.transparent(stages, 2)),
        "wide": lambda interfaces: largest.transparent(4, interfaces // 4),
        "nested": lambda interfaces: nested(largest.chain(4, interfaces // 4, 0, 0)),
    }
    if kind == "invalid" and work is not judged:
        return

    small, large = make[kind](8), make[kind](32)

    assert steps(lambda: work(large)) <= 4.6 * steps(lambda: work(small))
