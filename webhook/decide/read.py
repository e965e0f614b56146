"""The door: reads what matters of an object, once, into the values of `webhook.decide.model`.

An object may have any shape. What is absent or null counts as empty; a value of the wrong type raises Malformed with
its path.
"""

from __future__ import annotations

from collections.abc import Iterator

from sfc import names
from webhook.decide.model import (
    AdmissionRequest,
    Container,
    Json,
    Malformed,
    Membership,
    Owner,
    Pod,
    SelectorRule,
    Template,
    Workload,
)

LABELS = (names.CHAIN_LABEL, names.STAGE_LABEL)
TEMPLATES = {"CronJob": ("spec", "jobTemplate", "spec", "template")}
"""Where a kind of workload keeps its pod template, if not in spec.template."""
TEMPLATE_KINDS = frozenset(
    ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob")
)
"""Kinds of workloads whose labels the webhook carries into their templates (deploy/admission.yaml)."""
TOPOLOGY_KEY = "kubernetes.io/hostname"
ENDING_PROBES = ("livenessProbe", "startupProbe")
"""The kubelet restarts a container whose probe of these kinds fails."""
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


# --- pods -------------------------------------------------------------------------------------------------------------


def pod(obj: Json, path: str = "object") -> Pod:
    """`obj` is a pod or a pod template, `path` its place in the request. Raises Malformed."""
    metadata, spec = _mapping_at(obj, "metadata", path), _mapping_at(obj, "spec", path)
    of_metadata, of_spec = f"{path}.metadata", f"{path}.spec"
    preferences, rules_for_nodes = _affinity(_mapping_at(spec, "affinity", of_spec), f"{of_spec}.affinity")
    spread = bool(_list_at(spec, "topologySpreadConstraints", of_spec))
    security = _mapping_at(spec, "securityContext", of_spec)
    return Pod(
        labels=_membership(metadata, of_metadata),
        annotations=_mapping_at(metadata, "annotations", of_metadata),
        containers=_containers(spec, "containers", of_spec),
        init_containers=_containers(spec, "initContainers", of_spec),
        readiness_gates=tuple(_list_at(spec, "readinessGates", of_spec)),
        scheduling_gates=tuple(_list_at(spec, "schedulingGates", of_spec)),
        grace_seconds=_integer_at(spec, "terminationGracePeriodSeconds", of_spec),
        preferences=preferences,
        rules_for_nodes=rules_for_nodes or spread,
        host_network=spec.get("hostNetwork") is True,
        node_name=spec.get("nodeName"),
        sysctls={
            _dotted(str(sysctl.get("name"))): sysctl.get("value")
            for sysctl in _list_at(security, "sysctls", f"{of_spec}.securityContext")
        },
    )


def _dotted(sysctl: str) -> str:
    """The name with dots between its parts: Kubernetes and sysctl(8) also take slashes, by the first separator."""
    first = next((c for c in sysctl if c in "./"), ".")
    return sysctl if first == "." else sysctl.translate(str.maketrans("./", "/."))


def _containers(spec: Json, key: str, path: str) -> tuple[Container, ...]:
    return tuple(
        [
            Container(
                container.get("name"),
                _hook(container, path, key, i) if container.get("lifecycle") is not None else {},
                key == "containers" or container.get("restartPolicy") == "Always",
                _probes(container, f"{path}.{key}[{i}]"),
            )
            for i, container in enumerate(_list_at(spec, key, path))
        ]
    )


def _probes(container: Json, path: str) -> tuple[str, ...]:
    """Those that end the container when they fail, and do not say how long that may take."""
    found = {key: _mapping_at(container, key, path) for key in ENDING_PROBES if container.get(key) is not None}
    return tuple(key for key, probe in found.items() if probe.get("terminationGracePeriodSeconds") is None)


def _hook(container: Json, path: str, key: str, index: int) -> Json:
    where = f"{path}.{key}[{index}]"
    return _mapping_at(_mapping_at(container, "lifecycle", where), "preStop", f"{where}.lifecycle")


def _affinity(affinity: Json, path: str) -> tuple[tuple[Json, ...], bool]:
    """The preferences, and whether there are rules for nodes."""
    if not affinity:
        return (), False
    topologies = [
        topology
        for kind in ("podAffinity", "podAntiAffinity")
        for topology in _topologies(_mapping_at(affinity, kind, path), f"{path}.{kind}")
    ]
    preferences = _list_at(_mapping_at(affinity, "podAffinity", path), PREFERRED, f"{path}.podAffinity")
    apart = _list_at(_mapping_at(affinity, "podAntiAffinity", path), REQUIRED, f"{path}.podAntiAffinity")
    return tuple(preferences), bool(apart) or TOPOLOGY_KEY in topologies


def _topologies(rules: Json, path: str) -> Iterator[object]:
    for term in _list_at(rules, REQUIRED, path):
        yield term.get("topologyKey")
    for i, preference in enumerate(_list_at(rules, PREFERRED, path)):
        yield _mapping_at(preference, "podAffinityTerm", f"{path}.{PREFERRED}[{i}]").get("topologyKey")


# --- workloads --------------------------------------------------------------------------------------------------------


def workload(request: AdmissionRequest) -> Workload:
    """The workload of a CREATE or UPDATE. Raises Malformed."""
    obj, old = request.obj, request.old
    labels, stored = _labels_of(obj, "object"), _labels_of(old, "oldObject")
    kind = obj.get("kind")
    path = TEMPLATES.get(str(kind), ("spec", "template"))
    template, changed = None, labels != stored
    if not _is_fixed(request):
        now, before = _part(obj, path, "object"), _part(old, path, "oldObject")
        template = Template(
            path, _labels_of(now, _place("object", path)), _labels_of(before, _place("oldObject", path))
        )
        changed = changed or _without_labels(now) != _without_labels(before)
    spec = _mapping_at(obj, "spec", "object")
    strategy = _mapping_at(spec, "updateStrategy", "object.spec")
    rolling = _mapping_at(strategy, "rollingUpdate", "object.spec.updateStrategy")
    return Workload(
        kind=kind if isinstance(kind, str) else "workload",
        name=name(obj),
        owner=_owner(obj),
        labels=labels,
        stored=stored,
        is_stored=request.operation == "UPDATE",
        template=template,
        changed=changed,
        selector=tuple(_selector(_mapping_at(spec, "selector", "object.spec"), kind)),
        replicas=spec.get("replicas"),
        paused=spec.get("paused") is True,
        on_delete=strategy.get("type") == "OnDelete",
        partition=rolling.get("partition"),
    )


def _owner(obj: Json) -> Owner | None:
    """What writes an object, such as the Deployment of a ReplicaSet."""
    owners = _list_at(_mapping_at(obj, "metadata", "object"), "ownerReferences", "object.metadata")
    return next((Owner(str(o.get("kind")), str(o.get("name"))) for o in owners if o.get("controller") is True), None)


def _selector(selector: Json, kind: object) -> Iterator[SelectorRule]:
    """A ReplicationController's is a mapping; others have matchLabels and matchExpressions."""
    path = "object.spec.selector"
    labels = selector if kind == "ReplicationController" else _mapping_at(selector, "matchLabels", path)
    for index, key in enumerate(LABELS):
        if key in labels:
            yield SelectorRule(index, key, "In", (labels[key],))
    for rule in _list_at(selector, "matchExpressions", path) if kind != "ReplicationController" else ():
        asked, values = rule.get("key"), rule.get("values")
        if isinstance(asked, str) and asked in LABELS:
            found = tuple(values) if isinstance(values, list) else ()
            yield SelectorRule(LABELS.index(asked), asked, str(rule.get("operator")), found)


def template(obj: Json, path: tuple[str, ...]) -> Pod:
    """The pod template at `path` of a workload. Raises Malformed."""
    return pod(_part(obj, path, "object"), _place("object", path))


def _part(obj: Json, path: tuple[str, ...], top: str) -> Json:
    for key in path:
        obj, top = _mapping_at(obj, key, top), f"{top}.{key}"
    return obj


def _place(top: str, path: tuple[str, ...]) -> str:
    return ".".join((top, *path))


def _labels_of(obj: Json, path: str) -> Membership:
    return _membership(_mapping_at(obj, "metadata", path), f"{path}.metadata")


def _without_labels(part: Json) -> Json:
    """A pod template without our labels. Its types are checked already."""
    metadata = part.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in LABELS}
    return {**part, "metadata": {**metadata, "labels": labels}}


def _is_fixed(request: AdmissionRequest) -> bool:
    """A Job's template can change only before the first start, while the Job is suspended."""
    if request.operation != "UPDATE" or request.obj.get("kind") != "Job":
        return False
    started = _mapping_at(request.old, "status", "oldObject").get("startTime") is not None
    return started or _mapping_at(request.old, "spec", "oldObject").get("suspend") is not True


# --- chains -----------------------------------------------------------------------------------------------------------


def name(obj: Json) -> str:
    """An object's name, for a message: empty where there is none. Raises Malformed when metadata is no object."""
    found = _mapping_at(obj, "metadata", "object").get("name")
    return found if isinstance(found, str) else ""


# --- values of JSON ---------------------------------------------------------------------------------------------------


def mapping(value: object, path: str) -> Json:
    """`value`, which must be an object. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(path, "must be an object")
    return value


def text(value: object, path: str, empty: bool = False) -> str:
    """`value`, which must be a string; `empty` allows the empty one. Raises Malformed."""
    if not isinstance(value, str) or not (value or empty):
        raise Malformed(path, "must be a string" if empty else "must be a string that is not empty")
    return value


def _membership(metadata: Json, path: str) -> Membership:
    labels, where = _mapping_at(metadata, "labels", path), f"{path}.labels"
    return Membership(_label(labels, names.CHAIN_LABEL, where), _label(labels, names.STAGE_LABEL, where))


def _label(labels: Json, key: str, path: str) -> str | None:
    value = labels.get(key)
    return None if value is None else text(value, f"{path}[{key}]", empty=True)


def _mapping_at(parent: Json, key: str, path: str) -> Json:
    value = parent.get(key)
    return {} if value is None else mapping(value, f"{path}.{key}")


def _list_at(parent: Json, key: str, path: str) -> list[Json]:
    """The list of objects at `key`."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"{path}.{key}", "must be a list")
    for i, element in enumerate(value):
        if not isinstance(element, dict):
            raise Malformed(f"{path}.{key}[{i}]", "must be an object")
    return value


def _integer_at(parent: Json, key: str, path: str) -> int | None:
    value = parent.get(key)
    if value is not None and not isinstance(value, int):
        raise Malformed(f"{path}.{key}", "must be an integer")
    return value
