"""The decisions about pods and workloads: pure functions of the request and the chains that are known.

Each one reads the object (`read`), decides over values (`position`, `replica`), and returns the difference (`write`).
The order of injectors does not matter, nor does a second pass: a workload stays as the first one left it, and a pod
gets another drain id, with another signature, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sfc import annotation, drain_id
from sfc.chain import Hook
from sfc.statement import Sign
from sfc.validation.problem import shown
from webhook.decide import read, write
from webhook.decide.model import AdmissionRequest, Decision, Membership, Template, Workload
from webhook.decide.position import FindChain, position
from webhook.decide.read import LABELS
from webhook.decide.replica import replica, stripped

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
REFUSED = "The pod is refused until then; a workload's controller tries again by itself."
FORETOLD = "Until then its pods are refused."
TOO_LATE = (
    f"the template of a Job that was started cannot change: its pods keep the labels {' and '.join(LABELS)} that they "
    "have; create the Job anew for a change to take effect"
)


# --- pods -------------------------------------------------------------------------------------------------------------


def pod(request: AdmissionRequest, find: FindChain, auto: Hook, sign: Sign) -> Decision:
    """Make a new pod with our labels a replica of its stage, or deny it; take what a replica has from one without.

    `auto` is the drain hook where the chain leaves the choice to the webhook. `sign` signs what the node agent is to
    believe of the pod. Raises Malformed.

    Each pass gives a new drain id. Nothing tells a second pass over one pod from the first pass over a copy of it: each
    is a request of its own, and a pod that its controller names has no name yet.
    """
    if request.operation != "CREATE":
        return Decision()
    before = read.pod(request.obj)
    if MIRROR_ANNOTATION in before.annotations:
        return Decision()
    if not before.labels:
        return Decision(write.pod(before, stripped(before, request.namespace)))
    place = position(before, request.namespace, find)
    if isinstance(place, str):
        return Decision(denied=f"{place} {REFUSED}")
    identity = drain_id.make(request.uid)
    try:
        after, warnings = replica(before, place, identity, auto, sign)
    except annotation.AnnotationError as error:
        return Decision(denied=f"{error}. {REFUSED}")
    return Decision(write.pod(before, after), warnings=warnings)


# --- workloads --------------------------------------------------------------------------------------------------------


def workload(request: AdmissionRequest, find: FindChain, auto: Hook) -> Decision:
    """Carry a workload's labels into its pod template, or take them out again.

    Warns of what its pods will be denied or warned of, when something changes. A workload with a controller is left
    alone: its labels are its owner's affair. Raises Malformed.
    """
    if request.operation not in ("CREATE", "UPDATE") or read.is_controlled(request.obj):
        return Decision()
    found = read.workload(request)
    template = found.template
    if template is None:
        return Decision(warnings=(TOO_LATE,) if found.changed else ())
    labels = carried(template.labels, found)
    edits = write.template(template.path, template.labels, labels)
    if not found.changed and labels == template.stored:
        return Decision(edits)
    warnings = _overruled(found, template)
    return Decision(edits, warnings=(*warnings, *_foretold(request, labels, template, find, auto)))


def carried(own: Membership, found: Workload) -> Membership:
    """The labels that the template should have instead of `own`.

    A label of the workload replaces the template's. A label that the workload lost is removed from the template, unless
    the template has another value than the one that was carried in.
    """
    values = zip(own.values, found.labels.values, found.stored.values, strict=True)
    return Membership(*(_carried(*of_one_label) for of_one_label in values))


def _carried(own: str | None, now: str | None, stored: str | None) -> str | None:
    if now is None and stored is not None and own == stored:
        return None
    return own if now is None else now


def _overruled(found: Workload, template: Template) -> Iterator[str]:
    """A warning about each label that the user wrote into the template with another value."""
    values = zip(LABELS, found.labels.values, found.stored.values, template.labels.values, strict=True)
    for key, value, old, written in values:
        if value is not None and written not in (None, value, old):
            yield (
                f"{'.'.join(template.path)}.metadata.labels[{key}]: {shown(written)} is replaced by {shown(value)}, "
                "the label of the workload itself; remove one of the two"
            )


def _foretold(
    request: AdmissionRequest, labels: Membership, template: Template, find: FindChain, auto: Hook
) -> tuple[str, ...]:
    """The denial or the warnings that the pods will get, as warnings of the workload: somebody reads those."""
    if not labels:
        return ()
    pods = replace(read.template(request.obj, template.path), labels=labels)
    place = position(pods, request.namespace, find)
    if isinstance(place, str):
        return (f"{place} {FORETOLD}",)
    try:
        return replica(pods, place, "", auto, lambda _: "")[1]
    except annotation.AnnotationError as error:
        return (f"{error}. {FORETOLD}",)
