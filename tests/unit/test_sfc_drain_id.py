"""Drain ids, and the pods that they belong to."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sfc.drain_id import belongs, make

KEY = b"key"


def test_an_id_is_32_hex_digits() -> None:
    assert re.fullmatch("[0-9a-f]{32}", make(KEY, "uid", "telco", "nat-0"))


def test_an_id_belongs_to_its_pod_only() -> None:
    made = make(KEY, "uid", "telco", "nat-0")

    assert belongs(KEY, made, "telco", "nat-0")
    assert not belongs(KEY, made, "telco", "nat-1")
    assert not belongs(KEY, made, "other", "nat-0")
    assert not belongs(b"another key", made, "telco", "nat-0")


def test_every_request_gets_an_id_of_its_own() -> None:
    assert make(KEY, "uid-1", "telco", "nat-") != make(KEY, "uid-2", "telco", "nat-")


@given(st.text(), st.text())
def test_no_text_makes_it_raise(drain_id: str, other: str) -> None:
    assert not belongs(KEY, drain_id, other, other)
    assert make(KEY, drain_id, other, other)
