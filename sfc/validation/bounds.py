"""How large a chain may be in all: at most 64 KiB of JSON follow from these numbers and from those of its parts.

A chain is read by the webhook, by the cluster controller and by node agents, beside those of other tenants, so one
tenant's must not take long. Admission refuses larger ones. Readers follow a stored one all the same: it was let in by
an earlier version, and an upgrade must not cut its traffic.
"""

from __future__ import annotations

from collections.abc import Iterator

from sfc.validation import fault
from sfc.validation.problem import MISSING, Node, Problem

BOUNDS = {
    "interfaces": fault.MAX_INTERFACES_IN_ALL,
    "addresses": fault.MAX_ADDRESSES_IN_ALL,
    "routes": fault.MAX_ROUTES_IN_ALL,
}
"""What is counted over all stages, and how many of it a chain may have."""


def excesses(obj: object) -> tuple[Problem, ...]:
    """What the object, which may be any JSON, has too much of in all."""
    counted = _counted(Node("", obj)["spec"]["stages"])
    return tuple(
        Problem(
            "spec.stages",
            MISSING,
            f"have {counted[what]} {what} in all, {most} are allowed; remove some, or divide the chain",
        )
        for what, most in BOUNDS.items()
        if counted[what] > most
    )


def _counted(stages: Node) -> dict[str, int]:
    interfaces = list(_interfaces(stages))
    return {
        "interfaces": len(interfaces),
        **{what: sum(_length(interface[what]) for interface in interfaces) for what in ("addresses", "routes")},
    }


def _interfaces(stages: Node) -> Iterator[Node]:
    for stage in stages:
        yield from stage["interfaces"]


def _length(node: Node) -> int:
    return len(node.value) if isinstance(node.value, list) else 0
