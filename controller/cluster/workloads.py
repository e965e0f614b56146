"""Workloads with the chain label: why they bring their stage no pods, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controller.cluster.snapshot import Pod
from kube import lean, objects
from kube.api import Collection
from kube.objects import DEPLOYMENTS, Key, Object, Resource
from sfc import names

LABELS = (names.CHAIN_LABEL, names.STAGE_LABEL)
KINDS = (
    DEPLOYMENTS,
    Resource("apps/v1", "StatefulSet", "statefulsets"),
    Resource("apps/v1", "DaemonSet", "daemonsets"),
    Resource("apps/v1", "ReplicaSet", "replicasets"),
    Resource("v1", "ReplicationController", "replicationcontrollers"),
    Resource("batch/v1", "Job", "jobs"),
    Resource("batch/v1", "CronJob", "cronjobs"),
)
"""Those whose labels the webhook carries into their pod templates (deploy/admission.yaml)."""
KEEPS_PODS = frozenset(("ReplicaSet", "ReplicationController"))
"""Kinds that never replace a pod because its template changed."""
DISABLED = "does the namespace have the label sfc.dev/injection=disabled?"
MOST_NAMED = 3
"""Workloads or pods of a stage that a message names."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload with the chain label."""

    namespace: str
    kind: str
    name: str
    chain: str
    stage: str
    """Empty without the label."""
    owner: str
    """Kind and name of the controller that writes it; empty for none."""
    owner_is_served: bool
    """Whether the owner is of a kind whose labels the webhook carries."""
    carried: bool
    """Its pod template has the same labels."""
    replicas: int | None
    """That it should have; None for a kind that does not say."""
    stopped: bool
    """Paused or suspended."""
    over: bool
    """A Job that has ended."""
    keeps_pods: bool
    """Its running pods stay as they are until somebody deletes them."""

    @property
    def key(self) -> tuple[str, str]:
        """Kind and name."""
        return self.kind, self.name

    @property
    def of(self) -> Key:
        """The chain that it names, which may not exist."""
        return self.namespace, self.chain


def collections() -> dict[str, Collection]:
    """What to watch, by the names that /readyz shows."""
    of_chains = {"labelSelector": names.CHAIN_LABEL}
    return {kind.plural: Collection(kind.path(), lean.WORKLOAD, of_chains) for kind in KINDS}


def workload_of(obj: Object) -> Workload:
    """Reads a workload."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    holder = ((spec.get("jobTemplate") or {}).get("spec") or {}) if obj["kind"] == "CronJob" else spec
    template = (holder.get("template") or {}).get("metadata") or {}
    owner = next((o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")), None)
    carried = template.get("labels") or {}
    own = obj["metadata"].get("labels") or {}
    return Workload(
        namespace=objects.namespace(obj),
        kind=obj["kind"],
        name=objects.name(obj),
        chain=own.get(names.CHAIN_LABEL) or "",
        stage=own.get(names.STAGE_LABEL) or "",
        owner=f"{owner['kind']} {owner['name']}" if owner else "",
        owner_is_served=bool(owner and any(owner["kind"] == kind.kind for kind in KINDS)),
        carried=all(carried.get(key) == own.get(key) for key in LABELS),
        replicas=status.get("desiredNumberScheduled") if obj["kind"] == "DaemonSet" else spec.get("replicas"),
        stopped=spec.get("paused") is True or spec.get("suspend") is True,
        over=obj["kind"] == "Job" and _is_over(status),
        keeps_pods=obj["kind"] in KEEPS_PODS or (spec.get("updateStrategy") or {}).get("type") == "OnDelete",
    )


def why_empty(stage: str, workloads: Iterable[Workload]) -> str:
    """Why workloads with the stage's labels bring it no pod, and what to do; empty if none has them. `workloads`: those
    of the chain."""
    own = sorted((w for w in workloads if w.stage == stage and not _is_its_owners(w)), key=lambda w: w.key)
    return f"no pod for {stage}: {', and '.join(map(_remedy, own[:MOST_NAMED]))}" if own else ""


def strangers(stage: str, pods: Sequence[Pod]) -> str:
    """Why the pods of a stage do not serve, if none of them was made as its replica; otherwise empty."""
    if any(pod.networks and f'"{names.NETWORK_NAME}"' in pod.networks for pod in pods):
        return ""
    named = ", ".join(sorted(pod.name for pod in pods)[:MOST_NAMED])
    return (
        f"no serving replica of {stage}: its pods ({named}) were not made as replicas; they ran already when they were "
        f"labelled, or nobody asked the webhook ({DISABLED}): label their workload, or create them anew"
    )


def _is_its_owners(workload: Workload) -> bool:
    """Such as a ReplicaSet of a Deployment: what its owner has is said of the owner, if that is labelled."""
    return bool(workload.owner) and workload.carried


def _remedy(workload: Workload) -> str:  # noqa: PLR0911 - a table
    one = f"{workload.kind} {workload.name}"
    if workload.owner:
        instead = "label" if workload.owner_is_served else "write them into the pod template of"
        return f"{one} has the labels, but {workload.owner} writes its pod template: {instead} {workload.owner}"
    if not workload.carried:
        return (
            f"{one} has the labels, but its pod template has not, because nobody asked the webhook ({DISABLED}): "
            "write the labels again"
        )
    if workload.replicas == 0:
        remedy = "fits no node: see its nodeSelector" if workload.kind == "DaemonSet" else "has 0 replicas: scale it up"
        return f"{one} has the labels, but {remedy}"
    if workload.over:
        return f"{one} is over: create it anew"
    if workload.stopped:
        return f"{one} has the labels, but is paused or suspended: resume it"
    if workload.kind == "CronJob":
        return f"{one} makes a pod at its next time"
    if workload.keeps_pods:
        return f"{one} has the labels, but does not replace its running pods: delete them"
    return f"{one} has the labels, but no pod: see kubectl describe {workload.kind.lower()} {workload.name}"


def _is_over(status: dict[str, Any]) -> bool:
    conditions = status.get("conditions") or ()
    return any(c.get("type") in ("Complete", "Failed") and c.get("status") == "True" for c in conditions)
