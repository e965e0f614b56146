"""Which changes are logged, and as what."""

from __future__ import annotations

import logging

import pytest

from controller.node.plane.changes import Clear, Forget, Set
from controller.node.plane.model import LinkEntry, LinkState
from controller.node.plane.numbers import Numbered
from controller.node.reconcile.applier import log_changes
from sfc.chain import Side

EDGE = 7


def test_changes_of_links_and_targets_are_logged_with_the_name_of_the_cross_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    entry = LinkEntry(102, EDGE, Side.DOWNSTREAM, LinkState.SERVING)
    changes = (
        Set("links", 2, entry),
        Set("filters", 102, 2),
        Set("neighbours", (EDGE, Side.UPSTREAM, "10.1.0.1"), "02:00:00:00:00:01"),
        Set("targets", (EDGE, Side.DOWNSTREAM), b"table"),
        Clear("targets", (8, Side.UPSTREAM)),
        Clear("links", 3),
        Forget(8),
    )

    log_changes(changes, {EDGE: Numbered("chain-1", "telco", "edge.client.lan.firewall.left")})

    assert [(record.message, fields(record)) for record in caplog.records] == [
        ("link set", ("telco/edge.client.lan.firewall.left", "downstream", 2, "serving")),
        ("targets set", ("telco/edge.client.lan.firewall.left", "downstream", None, None)),
        ("targets cleared", (8, "upstream", None, None)),
        ("link cleared", (None, None, 3, None)),
    ]


def fields(record: logging.LogRecord) -> tuple[object, ...]:
    return tuple(getattr(record, name, None) for name in ("cross_connection", "side", "slot", "state"))
