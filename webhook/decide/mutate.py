"""The decisions about pods and workloads: pure functions of the request and the chains that are known.

Each one reads the object (`read`), decides over values (`position`, `replica`), and returns the difference (`write`).
The order of injectors does not matter, nor does a second pass: a workload stays as the first one left it, and a pod
gets another drain id, with another signature, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sfc import annotation, drain_id, names
from sfc.chain import Hook
from sfc.statement import Sign
from sfc.validation.problem import shown
from webhook.decide import effect, read, write
from webhook.decide.model import AdmissionRequest, Decision, Membership, Pod, Template, Workload
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
    """Make a new pod with our labels a replica of its stage, or deny it; take what a replica has from one without. A
    stored pod stays as it is, with a warning about labels that come too late.

    `auto` is the drain hook where the chain leaves the choice to the webhook. `sign` signs what the node agent is to
    believe of the pod. Raises Malformed.

    Each pass gives a new drain id. Nothing tells a second pass over one pod from the first pass over a copy of it: each
    is a request of its own, and a pod that its controller names has no name yet.
    """
    if request.operation == "UPDATE":
        stored, wanted = read.pod(request.old, "oldObject"), read.pod(request.obj)
        return Decision(warnings=tuple(effect.relabelled(stored, wanted, request.namespace)))
    before = read.pod(request.obj)
    if request.operation != "CREATE" or MIRROR_ANNOTATION in before.annotations:
        return Decision()
    if not before.labels:
        after = stripped(before, request.namespace)
        return Decision(write.pod(before, after), warnings=tuple(_by_hand(after, request.namespace)))
    place = position(before, request.namespace, find)
    if isinstance(place, str):
        return Decision(denied=f"{place} {REFUSED}")
    identity = drain_id.make(request.uid)
    try:
        after, warnings = replica(before, place, identity, auto, sign)
    except annotation.AnnotationError as error:
        return Decision(denied=f"{error}. {REFUSED}")
    return Decision(write.pod(before, after), warnings=(*_by_hand(before, request.namespace), *warnings))


def _by_hand(of: Pod, namespace: str) -> Iterator[str]:
    """The warning about a network of ours that no admission wrote."""
    if annotation.by_hand(of.annotations.get(names.NETWORKS_ANNOTATION), namespace):
        yield effect.BY_HAND


# --- workloads --------------------------------------------------------------------------------------------------------


def workload(request: AdmissionRequest, find: FindChain, auto: Hook) -> Decision:
    """Carry a workload's labels into its pod template, or take them out again.

    Warns of what its pods will be denied or warned of, and of what keeps the labels from them, when something changes.
    A workload with a controller is left as it is: its template is its owner's affair. Denies a template that the API
    server would refuse because of the selector. Raises Malformed.
    """
    if request.operation not in ("CREATE", "UPDATE"):
        return Decision()
    found = read.workload(request)
    template = found.template
    if template is None:
        return Decision(warnings=(TOO_LATE,) if found.changed else ())
    if found.owner:
        return Decision(warnings=tuple(effect.owned(found, found.owner)))
    labels = carried(template.labels, found)
    if denied := effect.refused_by_the_selector(found, labels):
        return Decision(denied=denied)
    edits = write.template(template.path, template.labels, labels)
    kept = (*_overruled(found, template), *effect.written_again(found))
    if not found.changed and labels == template.stored:
        return Decision(edits, warnings=kept)
    warnings = (
        *kept,
        *effect.by_the_template_alone(found),
        *effect.in_the_selector(found),
        *effect.undelivered(found, labels),
        *_foretold(request, labels, template, find, auto),
    )
    return Decision(edits, warnings=warnings)


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
    """A warning about each label that the template has with another value, unless it is the one carried in before."""
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
    pods = replace(read.template(request.obj, template.path), labels=labels)
    return (*_by_hand(pods, request.namespace), *(_of_replicas(request, pods, find, auto) if labels else ()))


def _of_replicas(request: AdmissionRequest, pods: Pod, find: FindChain, auto: Hook) -> tuple[str, ...]:
    place = position(pods, request.namespace, find)
    if isinstance(place, str):
        return (f"{place} {FORETOLD}",)
    try:
        return replica(pods, place, "", auto, lambda _: "")[1]
    except annotation.AnnotationError as error:
        return (f"{error}. {FORETOLD}",)
