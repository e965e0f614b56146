"""Manifests as found in clusters, and the patch that each gets: NAME.yaml and NAME.patch.yaml in manifests/.

A manifest may begin with its namespace; of two objects, the second is an update of the first. The chains are in
chains.yaml. `python -m tests.unit.test_webhook_golden` writes all patches again; read the difference before you commit
it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from sfc import annotation, drain_id, names
from sfc.chain import Chain
from sfc.statement import SIGNATURE
from sfc.validation.checks import parse
from tests.statements import SIGNER
from webhook.decide import mutate
from webhook.decide.model import AdmissionRequest, Decision
from webhook.decide.replica import GATE, hook_for
from webhook.review import review

Json = dict[str, Any]

HERE = Path(__file__).parent
MANIFESTS = sorted(path for path in (HERE / "manifests").glob("*.yaml") if not path.name.endswith(".patch.yaml"))
CHAINS = {chain.name: chain for chain in map(parse, yaml.safe_load_all((HERE / "chains.yaml").read_text()))}
LABELS = {names.CHAIN_LABEL, names.STAGE_LABEL}
OUR_GATES = {"/spec/readinessGates": GATE, "/spec/schedulingGates": {"name": names.SOURCE_PORTS}}


@dataclass(frozen=True)
class Case:
    obj: Json
    old: Json | None = None
    namespace_labels: Json = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Case:
        namespaces: list[Json] = []
        objects: list[Json] = []
        for document in yaml.safe_load_all(path.read_text()):
            (namespaces if document["kind"] == "Namespace" else objects).append(document)
        labels = namespaces[0]["metadata"]["labels"] if namespaces else {}
        return cls(objects[-1], objects[0] if len(objects) == 2 else None, labels)

    @property
    def is_pod(self) -> bool:
        return bool(self.obj["kind"] == "Pod")

    @property
    def template(self) -> Json:
        spec = self.obj["spec"]
        template: Json = (spec["jobTemplate"]["spec"] if self.obj["kind"] == "CronJob" else spec)["template"]
        return template

    def envelope(self, uid: str = "u-1") -> bytes:
        request = {"uid": uid, "operation": "UPDATE" if self.old else "CREATE", "namespace": "telco"}
        request |= {"object": self.obj, "oldObject": self.old}  # type: ignore[dict-item]
        return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def find(namespace: str, name: str) -> Chain | None:
    return CHAINS.get(name) if namespace == "telco" else None


def decide(case: Case) -> Callable[[AdmissionRequest], Decision]:
    auto = hook_for(case.namespace_labels)
    if case.is_pod:
        return lambda request: mutate.pod(request, find, auto, SIGNER.sign)
    return lambda request: mutate.workload(request, find, auto)


def outcome(case: Case, uid: str = "u-1") -> Json:
    """The webhook's response, with its envelope, as the API server gets it."""
    response = json.loads(review(case.envelope(uid), decide(case)).body)["response"]
    warnings = {"warnings": response["warnings"]} if "warnings" in response else {}
    if not response["allowed"]:
        return {"denied": response["status"]["message"], **warnings}
    return {"patch": json.loads(base64.b64decode(response.get("patch", "W10="))), **warnings}


def admitted(case: Case, uid: str = "u-1") -> Json:
    """The object after the patch."""
    obj: Json = jsonpatch.apply_patch(case.obj, outcome(case, uid).get("patch", []))
    return obj


CASES = [pytest.param(Case.read(path), id=path.stem) for path in MANIFESTS]
PODS = [case for case in CASES if case.values[0].is_pod]  # type: ignore[union-attr]
CREATED = [  # workloads whose template can change later
    case
    for case in CASES
    if case.values[0].old is None and case.values[0].obj["kind"] not in ("Pod", "Job")  # type: ignore[union-attr]
]
WORKLOADS = [case for case in CASES if not case.values[0].is_pod]  # type: ignore[union-attr]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_gets_its_patch(path: Path) -> None:
    expected = yaml.safe_load(path.with_suffix(".patch.yaml").read_text())

    assert outcome(Case.read(path)) == expected


def test_every_patch_has_its_manifest() -> None:
    patches = {path.name.removesuffix(".patch.yaml") for path in (HERE / "manifests").glob("*.patch.yaml")}

    assert patches == {path.stem for path in MANIFESTS}
    assert len(patches) >= 40


@pytest.mark.parametrize("case", CASES)
def test_no_warning_is_longer_than_an_api_server_may_show(case: Case) -> None:
    assert [warning for warning in outcome(case).get("warnings", ()) if len(warning) > 256] == []


def test_a_pod_of_a_megabyte_gets_the_patch_of_a_small_one() -> None:
    small = Case.read(HERE / "manifests" / "huge.yaml")
    large = deepcopy(small.obj)
    large["spec"]["containers"][0]["env"] = [{"name": f"POOL_{i}", "value": "x" * 64} for i in range(10_000)]

    assert len(Case(large).envelope()) > 1_000_000
    assert outcome(Case(large)) == outcome(small)


@pytest.mark.parametrize("case", CASES)
def test_a_second_pass_changes_the_drain_id_and_its_signature_alone(case: Case) -> None:
    once = admitted(case)

    again = admitted(Case(once, case.old, case.namespace_labels), uid="u-2")

    first, second = (drain_id.make(uid) for uid in ("u-1", "u-2"))
    assert unsigned(json.loads(json.dumps(again).replace(second, first))) == unsigned(once)
    assert case.is_pod or again == once


def unsigned(value: Any) -> Any:
    """Without signatures, and with the network annotation as the list in it, if it can be read."""
    if isinstance(value, dict):
        return {key: unsigned(item) for key, item in value.items() if key not in (SIGNATURE, "httpHeaders")}
    if isinstance(value, str) and SIGNATURE in value:
        return unsigned(annotation.read(value))
    return [unsigned(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES)
def test_nothing_of_the_users_is_taken_away_or_replaced(case: Case) -> None:
    assert_kept(without_ours(case.obj), admitted(case))


@pytest.mark.parametrize("case", PODS)
def test_the_users_networks_come_first_and_as_they_were(case: Case) -> None:
    before, after = (networks(obj) for obj in (case.obj, admitted(case)))

    assert after[: len(before)] == before


@pytest.mark.parametrize("case", WORKLOADS)
def test_a_template_gets_the_two_labels_and_nothing_else(case: Case) -> None:
    """So an upgrade of the webhook never rolls pods, although it may inject something else."""
    if "denied" in outcome(case):
        return
    before, after = case, Case(admitted(case))

    assert without_template_labels(after) == without_template_labels(before)
    assert (
        template_labels(after).items() <= {**template_labels(before), **case.obj["metadata"].get("labels", {})}.items()
    )


@pytest.mark.parametrize("case", CREATED)
def test_taking_the_labels_off_restores_what_was_there(case: Case) -> None:
    labelled = admitted(case)
    bare = {**labelled, "metadata": without_labels(case.obj["metadata"])}

    unlabelled = admitted(Case(bare, old=labelled))

    expected = {**case.obj, "metadata": bare["metadata"]}
    if labelled != case.obj and LABELS & template_labels(case).keys():
        expected = without_template_labels(Case(expected))  # the template contradicted the workload, which was told
    assert unlabelled == expected


# --- other injectors --------------------------------------------------------------------------------------------------


def sidecar(pod: Json) -> None:
    pod["spec"]["containers"].insert(0, {"name": "proxy", "image": "proxy"})


def native_sidecar(pod: Json) -> None:
    pod["spec"]["initContainers"] = [
        {"name": "native", "restartPolicy": "Always"},
        *(pod["spec"].get("initContainers") or []),
    ]


def network(pod: Json) -> None:
    """Adds a network as Istio's CNI mode does: in the syntax that the annotation has."""
    annotations = pod["metadata"]["annotations"] = pod["metadata"].get("annotations") or {}
    present = annotations.get(names.NETWORKS_ANNOTATION, "")
    if present.startswith(("[", "{")):
        annotations[names.NETWORKS_ANNOTATION] = json.dumps([*annotation.read(present), {"name": "istio-cni"}])
    else:
        annotations[names.NETWORKS_ANNOTATION] = f"{present}, istio-cni" if present else "istio-cni"


def gate_and_grace(pod: Json) -> None:
    spec = pod["spec"]
    spec["readinessGates"] = [*(spec.get("readinessGates") or []), {"conditionType": "example.com/probed"}]
    spec["terminationGracePeriodSeconds"] = max(45, spec.get("terminationGracePeriodSeconds") or 0)


INJECTORS = [sidecar, native_sidecar, network, gate_and_grace]


@pytest.mark.parametrize("injector", INJECTORS)
@pytest.mark.parametrize("case", PODS)
def test_an_injector_before_us_or_after_us_makes_the_same_pod(case: Case, injector: Callable[[Json], None]) -> None:
    if "denied" in outcome(case) or "sfc.dev/chain" not in case.obj["metadata"].get("labels", {}):
        return
    before = deepcopy(case.obj)
    injector(before)
    after = admitted(case)
    injector(after)

    first = admitted(Case(before, None, case.namespace_labels))
    last = admitted(Case(after, None, case.namespace_labels))

    assert in_any_order(first) == in_any_order(last)


def in_any_order(value: Any) -> Any:
    """Compares lists as multisets, and the network annotation as the list in it."""
    if isinstance(value, dict):
        read = {names.NETWORKS_ANNOTATION: annotation.read}
        return {key: in_any_order(read.get(key, lambda v: v)(item)) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((in_any_order(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


# --- what is the user's -----------------------------------------------------------------------------------------------


def template_labels(case: Case) -> Json:
    return (case.template.get("metadata") or {}).get("labels") or {}


def without_template_labels(case: Case) -> Json:
    changed = Case(deepcopy(case.obj))
    metadata = without_labels(changed.template.pop("metadata", None) or {})
    if metadata:
        changed.template["metadata"] = metadata
    return changed.obj


def without_labels(metadata: Json) -> Json:
    labels = {key: value for key, value in metadata.get("labels", {}).items() if key not in LABELS}
    rest = {key: value for key, value in metadata.items() if key != "labels"}
    return {**rest, "labels": labels} if labels else rest


def without_ours(obj: Any) -> Any:
    """Removes all that has our names or comes from an earlier pass, so that only the user's parts are left."""
    if isinstance(obj, list):
        return [without_ours(item) for item in obj]
    if not isinstance(obj, dict):
        return obj
    ours = {*LABELS, names.DRAIN_ID_ANNOTATION, names.NETWORKS_ANNOTATION, names.SOURCE_PORTS}
    hook = obj.get("preStop")
    get = hook.get("httpGet") if isinstance(hook, dict) else None
    if isinstance(get, dict) and get.get("host") == names.HOOK_HOST:
        ours.add("preStop")
    kept = {key: without_ours(value) for key, value in obj.items() if key not in ours}
    return {key: value for key, value in kept.items() if value not in ({}, None)}


def assert_kept(before: Any, after: Any, path: str = "") -> None:
    if path in OUR_GATES and isinstance(before, list):
        before = [gate for gate in before if gate != OUR_GATES[path]]
        after = [gate for gate in after if gate != OUR_GATES[path]]
    if path == "/spec/terminationGracePeriodSeconds" and isinstance(before, int):
        assert after >= before
    elif isinstance(before, dict):
        for key, value in before.items():
            here = f"{path}/{key}"
            assert key in after or value == [OUR_GATES.get(here)], f"{here} is gone"
            if key in after:
                assert_kept(value, after[key], here)
    elif isinstance(before, list):
        assert len(after) >= len(before), path
        for i, (one, other) in enumerate(zip(before, after, strict=False)):
            assert_kept(one, other, f"{path}/{i}")
    else:
        assert after == before, path


def networks(obj: Json) -> list[Json]:
    annotations = obj["metadata"].get("annotations") or {}
    try:
        present = annotation.read(annotations.get(names.NETWORKS_ANNOTATION))
    except annotation.AnnotationError:
        return []
    return [e for e in present if (e["name"], e.get("namespace", "telco")) != (names.NETWORK_NAME, "telco")]


if __name__ == "__main__":
    for path in MANIFESTS:
        text = yaml.safe_dump(outcome(Case.read(path)), sort_keys=False, width=120, allow_unicode=True)
        path.with_suffix(".patch.yaml").write_text(text)
