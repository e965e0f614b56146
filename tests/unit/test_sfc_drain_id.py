"""Drain ids."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sfc.drain_id import make


@given(st.text())
def test_an_id_is_32_hex_digits(request_uid: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", make(request_uid))


def test_every_request_gets_an_id_of_its_own() -> None:
    assert make("uid-1") != make("uid-2")
