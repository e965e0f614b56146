"""What keeps labels from the pods that they are meant for, as warnings: nobody should have to wait to find out.

Each function takes what was read of a request, and says one kind of thing.
"""

from __future__ import annotations

from collections.abc import Iterator

from sfc import annotation, names
from sfc.validation.problem import shown
from webhook.decide.model import Membership, Owner, Pod, Workload
from webhook.decide.read import LABELS, TEMPLATE_KINDS

BOTH = " and ".join(LABELS)
BY_HAND = (
    f"annotation {names.NETWORKS_ANNOTATION}: network {shown(names.NETWORK_NAME)} is written by hand; where there are "
    f"chains, only the webhook can ask for it: take it out, and label the workload with {BOTH}"
)
KUSTOMIZE = "(Kustomize: labels with includeSelectors: false, not commonLabels)"


# --- workloads --------------------------------------------------------------------------------------------------------


def owned(found: Workload, by: Owner) -> Iterator[str]:
    """Labels on an object whose template another one writes."""
    if found.template is None or found.labels in (found.stored, found.template.labels):
        return
    owner = f"{by.kind} {shown(by.name)}"
    instead = f"label {owner}" if by.kind in TEMPLATE_KINDS else f"write them into the pod template of {owner}"
    yield (
        f"labels {BOTH} of this {found.kind} do not reach its pods: {owner} owns it and writes its template; {instead} "
        "instead"
    )


def written_again(found: Workload) -> Iterator[str]:
    """Labels that a request takes out of the template, as `kubectl rollout undo` does, while the workload has them."""
    if found.template is None:
        return
    values = zip(found.labels.values, found.template.stored.values, found.template.labels.values, strict=True)
    if any(wanted is not None and wanted == stored and asked is None for wanted, stored, asked in values):
        yield (
            f"the pod template keeps the labels {BOTH}, because the {found.kind} itself has them (a rollback takes no "
            f"workload out of its chain); to take it out: {_kubectl(found, *(f'{key}-' for key in LABELS))}"
        )


def by_the_template_alone(found: Workload) -> Iterator[str]:
    """Labels that come into the template of a stored workload without being on it, as by `kubectl rollout undo`."""
    template = found.template
    if not found.is_stored or template is None or found.labels or not template.labels:
        return
    if template.labels not in (template.stored, found.stored):
        labels = [
            f"{key}={value}" for key, value in zip(LABELS, template.labels.values, strict=True) if value is not None
        ]
        yield (
            f"the pod template has {' '.join(labels)} and the {found.kind} has not, as after a rollback: its pods "
            f"become replicas; to take them out: {_kubectl(found, *labels)}, then remove the labels in the same way"
        )


def undelivered(found: Workload, labels: Membership) -> Iterator[str]:
    """A template that changes and pods that do not. `labels`: those that the template gets."""
    if found.template is None or labels == found.template.stored:
        return
    if found.replicas == 0:
        if labels:
            yield (
                f"spec.replicas is 0: the stage gets no replica of this {found.kind} until it is scaled up: kubectl "
                f"scale {found.kind.lower()} {found.name} --replicas=1"
            )
        return
    if not found.is_stored:
        return
    stay = "running pods stay as they are"
    if found.kind in ("ReplicaSet", "ReplicationController"):
        yield f"a {found.kind} does not replace its pods: {stay} until you delete them; then it makes new ones"
    if found.paused:
        yield f"spec.paused is true: {stay} until you resume: kubectl rollout resume {found.kind.lower()} {found.name}"
    if found.on_delete:
        yield f"spec.updateStrategy is OnDelete: {stay} until you delete them; then the {found.kind} makes new ones"
    if found.partition:
        yield (
            f"spec.updateStrategy.rollingUpdate.partition is {found.partition}: {stay} if their ordinal is lower; set "
            "it to 0"
        )


def in_the_selector(found: Workload) -> Iterator[str]:
    """Labels in the selector of a new workload."""
    if not found.is_stored and any(rule.needs_a_value for rule in found.selector):
        yield (
            f"spec.selector asks for {BOTH}, and a selector can never change, so this {found.kind} can neither move "
            f"nor leave; take them out of the selector {KUSTOMIZE}"
        )


def refused_by_the_selector(found: Workload, labels: Membership) -> str | None:
    """Why a template with `labels` would be refused, in sentences; None if the selector allows them, or does not allow
    those that the request has either."""
    if found.template is None:
        return None
    for rule in found.selector:
        if rule.allows(found.template.labels) and not rule.allows(labels):
            return (
                f"spec.selector: {rule}: a selector can never change, and the pods of this {found.kind} would no "
                f"longer match it; leave the labels {BOTH} as they are, or create it anew without them in the selector "
                f"{KUSTOMIZE}."
            )
    return None


def _kubectl(found: Workload, *changes: str) -> str:
    return f"kubectl label {found.kind.lower()} {found.name} {' '.join(changes)}"


# --- pods -------------------------------------------------------------------------------------------------------------


def relabelled(before: Pod, after: Pod, namespace: str) -> Iterator[str]:
    """Labels of a pod that exists already. Its interfaces were made with it."""
    if before.labels == after.labels:
        return
    made_for = annotation.made_for(after.annotations.get(names.NETWORKS_ANNOTATION), namespace)
    if not made_for:
        if after.labels:
            yield (
                f"a running pod does not become a replica by the labels {BOTH}, because its interfaces are made when "
                "it starts: label its workload; or, if it has none, delete the pod and create it anew with the labels"
            )
    elif after.labels.values not in made_for:
        chain, stage = sorted(made_for)[0]
        yield (
            f"the pod was made for stage {shown(stage)} of chain {shown(chain)} and gets no new sessions, in any "
            "stage, while its labels say something else; set them back, or delete the pod"
        )
