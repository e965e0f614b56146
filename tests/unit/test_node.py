from __future__ import annotations

from controller.cluster_view import parsed
from tests.unit.objects import chain

KEY = ("telco", "edge")


def test_a_chain_that_became_invalid_stays_as_it_was() -> None:
    valid = parsed({KEY: chain()}, {})
    broken = chain()
    broken["spec"]["stages"][0]["interfaces"] = []

    assert parsed({KEY: broken}, valid) == valid
    assert parsed({KEY: broken}, {}) == {}


def test_a_chain_that_was_deleted_is_not_remembered() -> None:
    assert parsed({}, parsed({KEY: chain()}, {})) == {}
