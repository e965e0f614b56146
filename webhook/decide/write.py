"""The one place that writes: values as they are and as they should be in, edits of JSON out."""

from __future__ import annotations

from collections.abc import Iterator

from sfc import names
from webhook.decide.model import Container, Edit, Json, Membership, Pod
from webhook.decide.read import LABELS, PREFERRED

ANNOTATIONS = (names.NETWORKS_ANNOTATION, names.DRAIN_ID_ANNOTATION, names.SOURCE_PORTS, names.REPLICA_NUMBER)
"""Those that admission changes."""


def pod(before: Pod, after: Pod) -> tuple[Edit, ...]:
    """The edits that turn the pod `before`, as it was read, into `after`.

    They write annotations, hooks, gates, grace periods and preferences. Both pods have the same containers.
    """
    return tuple(_pod(before, after))


def template(path: tuple[str, ...], before: Membership, after: Membership) -> tuple[Edit, ...]:
    """The edits that give the pod template at `path` the labels `after` in place of `before`."""
    return tuple(
        ((*path, "metadata", "labels", key), new)
        for key, old, new in zip(LABELS, before.values, after.values, strict=True)
        if old != new
    )


def _pod(before: Pod, after: Pod) -> Iterator[Edit]:
    for key in ANNOTATIONS:
        if before.annotations.get(key) != after.annotations.get(key):
            yield ("metadata", "annotations", key), after.annotations.get(key)
    yield from _containers("containers", before.containers, after.containers)
    yield from _containers("initContainers", before.init_containers, after.init_containers)
    yield from _list(("spec", "readinessGates"), before.readiness_gates, after.readiness_gates)
    yield from _list(("spec", "schedulingGates"), before.scheduling_gates, after.scheduling_gates)
    if before.grace_seconds != after.grace_seconds:
        yield ("spec", "terminationGracePeriodSeconds"), after.grace_seconds
    yield from _list(("spec", "affinity", "podAffinity", PREFERRED), before.preferences, after.preferences)


def _containers(group: str, before: tuple[Container, ...], after: tuple[Container, ...]) -> Iterator[Edit]:
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.hook != new.hook:
            yield ("spec", group, i, "lifecycle", "preStop"), new.hook or None
        if new.probe_grace_seconds is not None:
            for probe in new.probes:
                yield ("spec", group, i, probe, "terminationGracePeriodSeconds"), new.probe_grace_seconds


def _list(path: tuple[str | int, ...], before: tuple[Json, ...], after: tuple[Json, ...]) -> Iterator[Edit]:
    """One appended element is an edit of its own; any other difference replaces the list."""
    if before and before == after[:-1]:
        yield (*path, len(before)), after[-1]
    elif before != after:
        yield path, list(after)
