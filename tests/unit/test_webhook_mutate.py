"""The webhook's mutations as pure decisions: labels of workloads, injection into pods, and hostile input."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.signing import verify
from sfc import names
from sfc.chain import Chain, Hook
from sfc.statement import Sign, message
from sfc.validation.checks import InvalidChain, parse, problems
from tests.statements import SIGNER
from tests.unit import objects
from webhook import patch
from webhook.app import MAX_BODY_BYTES
from webhook.decide import mutate, validate
from webhook.decide.model import AdmissionRequest, Decision, Edit, Malformed
from webhook.decide.position import FindChain
from webhook.decide.replica import hook_for
from webhook.review import review

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
CHAIN = parse(objects.chain())
BOTH = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}


def find(namespace: str, name: str) -> Chain | None:
    return CHAIN if (namespace, name) == ("telco", "edge") else None


def request(obj: dict[str, Any], old: dict[str, Any] | None = None, uid: str = "u-1") -> AdmissionRequest:
    return AdmissionRequest(uid, "UPDATE" if old is not None else "CREATE", "telco", obj, old or {})


@dataclass(frozen=True)
class Outcome:
    """A decision, and the object that the API server makes of it; None when it is denied."""

    obj: dict[str, Any] | None
    denied: str | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: AdmissionRequest, decision: Decision) -> Outcome:
        operations = patch.operations(asked.obj, decision.edits)
        obj = None if decision.denied else jsonpatch.apply_patch(asked.obj, operations)
        return cls(obj, decision.denied, decision.warnings)


def admitted_workload(asked: AdmissionRequest, find: FindChain, auto: Hook) -> Outcome:
    return Outcome.of(asked, mutate.workload(asked, find, auto))


def admitted_pod(asked: AdmissionRequest, find: FindChain, auto: Hook, sign: Sign) -> Outcome:
    return Outcome.of(asked, mutate.pod(asked, find, auto, sign))


def deployment(labels: dict[str, str], template: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "nat", "labels": labels},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "nat", **template}}, "spec": {}}},
        **more,
    }


def pod(**more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "nat-0", "labels": BOTH}, "spec": {"containers": [{"name": "nat"}]}, **more}


# --- workloads --------------------------------------------------------------------------------------------------------


def test_labels_are_carried_into_the_template() -> None:
    decision = admitted_workload(request(deployment(BOTH, {})), find, Hook.HTTP_GET)

    assert decision == Outcome(obj=deployment(BOTH, BOTH))


def test_unlabelling_takes_the_labels_out_again() -> None:
    labelled = admitted_workload(request(deployment(BOTH, {})), find, Hook.HTTP_GET).obj
    assert labelled is not None

    unlabelled = {**labelled, "metadata": deployment({}, {})["metadata"]}
    decision = admitted_workload(request(unlabelled, old=labelled), find, Hook.HTTP_GET)

    assert decision == Outcome(obj=deployment({}, {}))


def test_relabelling_changes_the_template_too() -> None:
    new = {**BOTH, "sfc.dev/stage": "firewall"}

    decision = admitted_workload(request(deployment(new, BOTH), old=deployment(BOTH, BOTH)), find, Hook.HTTP_GET)

    assert decision == Outcome(obj=deployment(new, new))


def test_template_labels_that_were_not_carried_stay() -> None:
    other = {**BOTH, "sfc.dev/stage": "firewall"}

    decision = admitted_workload(request(deployment({}, other), old=deployment(BOTH, other)), find, Hook.HTTP_GET)

    assert decision.obj == deployment({}, {"sfc.dev/stage": "firewall"})


def test_labels_written_in_the_template_only_are_the_users_affair() -> None:
    decision = admitted_workload(request(deployment({}, BOTH), old=deployment({}, BOTH)), find, Hook.HTTP_GET)

    assert decision == Outcome(obj=deployment({}, BOTH))


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Rollout"])
def test_every_kind_with_a_template_in_its_spec_is_served(kind: str) -> None:
    decision = admitted_workload(request({**deployment(BOTH, {}), "kind": kind}), find, Hook.HTTP_GET)

    assert decision.obj == {**deployment(BOTH, BOTH), "kind": kind}


def test_a_cronjobs_template_lies_deeper() -> None:
    cronjob = {"kind": "CronJob", "metadata": {"labels": BOTH}, "spec": {"jobTemplate": {"spec": {"template": {}}}}}

    decision = admitted_workload(request(cronjob), find, Hook.HTTP_GET)

    template = {"metadata": {"labels": BOTH}}
    assert decision.obj == {**cronjob, "spec": {"jobTemplate": {"spec": {"template": template}}}}


def test_a_jobs_template_cannot_change_any_more() -> None:
    job = {**deployment(BOTH, {}), "kind": "Job"}

    assert mutate.workload(request(job, old=deployment(BOTH, {})), find, Hook.HTTP_GET) == Decision()
    assert mutate.workload(request(job, old=deployment({}, {})), find, Hook.HTTP_GET) == Decision(
        warnings=(mutate.TOO_LATE,)
    )
    assert len(mutate.TOO_LATE) <= 256


@pytest.mark.parametrize(("status", "carried"), [({}, True), ({"startTime": "2026-01-01T00:00:00Z"}, False)])
def test_a_suspended_jobs_template_can_change_until_it_was_started(status: dict[str, Any], carried: bool) -> None:
    before, after = deployment({}, {}, kind="Job", status=status), deployment(BOTH, {}, kind="Job", status=status)
    before["spec"]["suspend"] = after["spec"]["suspend"] = True

    obj = admitted_workload(request(after, old=before), find, Hook.HTTP_GET).obj

    assert obj is not None
    assert obj["spec"]["template"]["metadata"]["labels"] == ({"app": "nat", **BOTH} if carried else {"app": "nat"})


def test_a_template_label_that_contradicts_the_workloads_is_replaced_with_a_warning() -> None:
    decision = admitted_workload(request(deployment(BOTH, {"sfc.dev/stage": "firewall"})), find, Hook.HTTP_GET)

    assert decision == Outcome(
        obj=deployment(BOTH, BOTH),
        warnings=(
            'spec.template.metadata.labels[sfc.dev/stage]: "firewall" is replaced by "nat", the label of the workload '
            "itself; remove one of the two",
        ),
    )


@pytest.mark.parametrize(
    ("spec", "warning"),
    [
        (
            {"hostNetwork": True},
            "spec.hostNetwork: true: the pod has no network of its own to which a stage's interfaces could be added; "
            "remove hostNetwork, or the labels sfc.dev/chain and sfc.dev/stage. Until then its pods are refused.",
        ),
        (
            {"terminationGracePeriodSeconds": 10},
            'terminationGracePeriodSeconds 10 is shorter than the drain deadline of stage "nat", 30 s: pods get 60 s; '
            "lower the deadline if that is too long",
        ),
        (
            {"containers": [{"name": "a", "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}}]},
            'container "a" keeps its own preStop hook: it does not wait for draining, which starts when the '
            "pod's deletion is seen; remove the hook to have termination wait",
        ),
    ],
)
def test_what_the_pods_of_a_template_will_be_told_is_told_of_the_workload(spec: dict[str, Any], warning: str) -> None:
    before, after = deployment({}, {}), deployment(BOTH, {})
    before["spec"]["template"]["spec"] = after["spec"]["template"]["spec"] = spec

    assert admitted_workload(request(after), find, Hook.HTTP_GET).warnings == (warning,)
    assert admitted_workload(request(after, old=before), find, Hook.HTTP_GET).warnings == (warning,)
    assert len(warning) <= 256


def test_a_workload_that_is_merely_written_again_is_told_nothing_again() -> None:
    labelled = admitted_workload(request(deployment({**BOTH, "sfc.dev/stage": "x"}, {})), find, Hook.HTTP_GET).obj
    assert labelled is not None

    scaled = {**labelled, "spec": {**labelled["spec"], "replicas": 7}}
    decision = admitted_workload(request(scaled, old=labelled), find, Hook.HTTP_GET)

    assert decision == Outcome(obj=scaled)


def test_a_network_annotation_that_no_pod_could_have_is_told_of_the_workload() -> None:
    obj = deployment(BOTH, {})
    obj["spec"]["template"]["metadata"]["annotations"] = {names.NETWORKS_ANNOTATION: "storage@inside"}

    (warning,) = admitted_workload(request(obj), find, Hook.HTTP_GET).warnings

    assert warning.endswith("or rename the stage's. Until then its pods are refused.")


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("Deployment", 'label Deployment "nat" instead'),
        ("CronJob", 'label CronJob "nat" instead'),
        ("Rollout", 'write them into the pod template of Rollout "nat" instead'),
    ],
)
def test_a_workload_with_a_controller_is_its_controllers_affair(kind: str, instead: str) -> None:
    owner = [{"kind": kind, "name": "nat", "controller": True}]
    bare, owned, carried = (deployment(*labels) for labels in (({}, {}), (BOTH, {}), (BOTH, BOTH)))
    for obj in (bare, owned, carried):
        obj["metadata"]["ownerReferences"] = owner

    for labelled in (request(owned), request(owned, old=bare), request(bare, old=carried)):
        decision = mutate.workload(labelled, find, Hook.HTTP_GET)
        assert decision.edits == ()
        assert [w.rpartition("; ")[2] for w in decision.warnings] == ([] if labelled.obj is bare else [instead])

    for of_its_owner in (request(carried), request(carried, old=bare), request(owned, old=owned)):
        assert mutate.workload(of_its_owner, find, Hook.HTTP_GET) == Decision()


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        (
            {"sfc.dev/chain": "egde", "sfc.dev/stage": "nat"},
            "ServiceFunctionChain telco/egde, named by label sfc.dev/chain, does not exist or is not valid; "
            "create it, or correct it, or correct the label. Until then its pods are refused.",
        ),
        (
            {"sfc.dev/chain": "edge", "sfc.dev/stage": "router"},
            'ServiceFunctionChain telco/edge has no stage "router", named by label sfc.dev/stage (its stages: client, '
            "firewall, nat, server); add the stage, or correct the label. Until then its pods are refused.",
        ),
        (
            {"sfc.dev/chain": "edge"},
            "Label sfc.dev/chain is set but sfc.dev/stage is not; set both, or remove both. Until then its pods are "
            "refused.",
        ),
        (
            {"sfc.dev/stage": "nat"},
            "Label sfc.dev/stage is set but sfc.dev/chain is not; set both, or remove both. Until then its pods are "
            "refused.",
        ),
    ],
)
def test_labels_that_name_nothing_are_carried_with_a_warning(labels: dict[str, str], warning: str) -> None:
    decision = admitted_workload(request(deployment(labels, {})), find, Hook.HTTP_GET)

    assert decision == Outcome(obj=deployment(labels, labels), warnings=(warning,))
    assert len(warning) <= 256


# --- pods -------------------------------------------------------------------------------------------------------------


def test_a_pod_without_our_labels_is_left_alone() -> None:
    obj = {
        "metadata": {"labels": {"app": "x"}, "annotations": {names.NETWORKS_ANNOTATION: ""}},
        "spec": {"containers": []},
    }

    decision = admitted_pod(request(obj), find, Hook.HTTP_GET, SIGNER.sign)

    assert decision == Outcome(obj=obj)


def test_a_pod_that_loses_its_labels_loses_all_that_it_had_as_a_replica() -> None:
    replica = admitted_pod(request(pod()), find, Hook.HTTP_GET, SIGNER.sign).obj
    assert replica is not None

    copy = {**replica, "metadata": {"name": "copy", "annotations": replica["metadata"]["annotations"]}}
    changed = admitted_pod(request(copy), find, Hook.HTTP_GET, SIGNER.sign).obj

    assert changed is not None
    assert changed["metadata"] == {"name": "copy"}
    assert changed["spec"]["containers"] == pod()["spec"]["containers"]
    assert changed["spec"]["readinessGates"] == []


def test_a_pod_of_a_chain_that_is_not_valid_is_denied_with_its_problems() -> None:
    broken = objects.chain()
    broken["spec"]["stages"][0]["interfaces"][0]["addresses"] = ["10.1.0.2"]
    invalid = InvalidChain(problems(broken))

    decision = admitted_pod(request(pod()), lambda *_: invalid, Hook.HTTP_GET, SIGNER.sign)

    assert decision.denied
    assert decision.denied.startswith("ServiceFunctionChain telco/edge is not valid; correct it. spec.stages[0]")


def sliced(namespace: str, name: str) -> Chain | None:
    obj = objects.chain()
    obj["spec"]["stages"][2]["interfaces"][1]["sourcePorts"] = {"slices": 16}
    return parse(obj)


def test_a_grace_period_that_the_api_server_filled_in_is_no_mistake_of_the_users() -> None:
    patient = objects.chain()
    patient["spec"]["drain"] = {"deadlineSeconds": 60}
    obj = pod()
    obj["spec"]["terminationGracePeriodSeconds"] = 30

    decision = admitted_pod(request(obj), lambda *_: parse(patient), Hook.HTTP_GET, SIGNER.sign)

    assert decision.warnings == ()
    assert decision.obj is not None
    assert decision.obj["spec"]["terminationGracePeriodSeconds"] == 90


def numbered(namespace: str, name: str) -> Chain | None:
    obj = objects.chain()
    obj["spec"]["stages"][2]["replicaNumbers"] = 16
    return parse(obj)


def test_a_replica_that_gets_a_number_waits_for_it_and_brings_none_along() -> None:
    metadata = {"name": "nat-0", "labels": BOTH, "annotations": {"sfc.dev/replica-number": "3"}}
    spec = {"containers": [{"name": "nat"}], "securityContext": {"sysctls": [LIMITED]}}

    decision = admitted_pod(request({"metadata": metadata, "spec": spec}), numbered, Hook.HTTP_GET, SIGNER.sign)

    assert decision.obj is not None
    assert decision.obj["spec"]["schedulingGates"] == [{"name": "sfc.dev/source-ports"}]
    assert "sfc.dev/replica-number" not in decision.obj["metadata"]["annotations"]
    assert "sourcePorts" not in decision.obj["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]
    assert decision.warnings == (
        'annotation sfc.dev/replica-number: "3" is removed; only the cluster controller gives a number to a pod',
    )


LIMITED = {"name": "net.ipv4.ip_local_port_range", "value": "2000 3000"}
"""Not with source ports."""


def test_a_replica_that_names_its_node_gets_no_number() -> None:
    spec = {"containers": [{"name": "nat"}], "nodeName": "n1"}

    decision = admitted_pod(
        request({"metadata": {"name": "nat-0", "labels": BOTH}, "spec": spec}), numbered, Hook.HTTP_GET, SIGNER.sign
    )

    assert decision.denied
    assert 'replicas of stage "nat" are given their number before they are scheduled' in decision.denied


def test_source_ports_that_a_pod_brings_along_are_removed_with_a_warning() -> None:
    metadata = {"name": "nat-0", "labels": BOTH, "annotations": {"sfc.dev/source-ports": "1024-65535"}}
    spec = {"containers": [{"name": "nat"}]}

    for find_chain in (find, sliced):
        decision = admitted_pod(request({"metadata": metadata, "spec": spec}), find_chain, Hook.HTTP_GET, SIGNER.sign)

        assert decision.obj is not None
        assert "sfc.dev/source-ports" not in decision.obj["metadata"]["annotations"]
        assert decision.warnings == (
            'annotation sfc.dev/source-ports: "1024-65535" is removed; only the cluster controller gives source ports '
            "to a pod",
        )


@pytest.mark.parametrize(
    ("spec", "denied"),
    [
        (
            {"nodeName": "n1"},
            'spec.nodeName: "n1": replicas of stage "nat" are given their source ports before they are scheduled, '
            "which a pod that names its node is not; remove nodeName and choose the node by spec.nodeSelector "
            "(kubernetes.io/hostname).",
        ),
    ],
)
def test_a_pod_that_cannot_have_source_ports_of_its_own_is_denied(spec: dict[str, Any], denied: str) -> None:
    obj = pod()
    obj["spec"] |= spec

    assert str(admitted_pod(request(obj), sliced, Hook.HTTP_GET, SIGNER.sign).denied).startswith(denied)
    assert admitted_pod(request(obj), find, Hook.HTTP_GET, SIGNER.sign).denied is None


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize(
    ("name", "value", "effect"),
    [
        ("net.ipv4.ip_local_port_range", "1 2", "would replace"),
        ("net.ipv4.ip_local_reserved_ports", "1024-60000", "may take away"),
        ("net.ipv4.ip_unprivileged_port_start", "5000", "forbids in part"),
        ("net.ipv4.ip_unprivileged_port_start", "1025", "forbids in part"),
    ],
)
def test_every_sysctl_that_contradicts_source_ports_is_denied(
    separator: str, name: str, value: str, effect: str
) -> None:
    obj = pod()
    written = name.replace(".", separator)  # Kubernetes takes both
    obj["spec"]["securityContext"] = {
        "sysctls": [{"name": "kernel.msgmax", "value": "1"}, {"name": written, "value": value}]
    }

    assert admitted_pod(request(obj), find, Hook.HTTP_GET, SIGNER.sign).denied is None
    assert str(admitted_pod(request(obj), sliced, Hook.HTTP_GET, SIGNER.sign).denied).startswith(
        f'spec.securityContext.sysctls: {name}: "{value}": replicas of stage "nat" are given their source ports, which '
        f"this {effect}; remove the sysctl, or sourcePorts from the stage's interfaces."
    )


@pytest.mark.parametrize("value", ["0", "80", "1024"])
def test_a_pod_with_source_ports_may_listen_below_them_without_root(value: str) -> None:
    obj = pod()
    obj["spec"]["securityContext"] = {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": value}]}

    assert admitted_pod(request(obj), sliced, Hook.HTTP_GET, SIGNER.sign).denied is None


def identities(obj: dict[str, Any] | None) -> set[str]:
    """Every drain id that a pod has, wherever it stands."""
    assert obj is not None
    elements = json.loads(obj["metadata"]["annotations"][names.NETWORKS_ANNOTATION])
    hooks = (container["lifecycle"]["preStop"]["httpGet"]["path"] for container in obj["spec"]["containers"])
    return {
        obj["metadata"]["annotations"][names.DRAIN_ID_ANNOTATION],
        *(element["cni-args"]["drainId"] for element in elements),
        *(path.removeprefix(names.HOOK_PATH) for path in hooks),
    }


@pytest.mark.parametrize("copy_of", [{"name": "nat-0"}, {"name": "nat-0-copy"}, {"generateName": "nat-7d-"}])
def test_each_admission_gives_one_drain_id_of_its_own(copy_of: dict[str, str]) -> None:
    """A copy has the name of the original before it is created anew, another name, or the name that its controller
    gives to all copies."""
    metadata = {"labels": BOTH, **copy_of}
    original = admitted_pod(request(pod(metadata=metadata), uid="u-1"), find, Hook.HTTP_GET, SIGNER.sign).obj
    assert original is not None

    changed = admitted_pod(request(original, uid="u-2"), find, Hook.HTTP_GET, SIGNER.sign).obj

    (first,), (second,) = identities(original), identities(changed)
    assert first != second
    assert first not in json.dumps(changed)


def test_each_interface_of_a_replica_has_a_statement_that_the_webhook_signed() -> None:
    obj = admitted_pod(request(pod()), find, Hook.HTTP_GET, SIGNER.sign).obj
    assert obj is not None

    elements = json.loads(obj["metadata"]["annotations"][names.NETWORKS_ANNOTATION])

    assert [element["cni-args"]["interface"] for element in elements] == ["inside", "outside"]
    for element in elements:
        arguments = element["cni-args"]
        assert verify(SIGNER.public, message(arguments), arguments["signature"])
        assert (arguments["namespace"], arguments["chain"], arguments["chainUid"], arguments["stage"]) == (
            "telco",
            "edge",
            "chain-1",
            "nat",
        )
        assert (arguments["addresses"], arguments["mac"]) == (element["ips"], element["mac"])


@pytest.mark.parametrize(
    ("stage_drain", "grace", "expected"),
    [(30, None, 60), (30, 45, 60), (30, 61, 61), (0, None, 30), (0, 0, 30), (3600, 30, 3630)],
)
def test_the_grace_period_is_only_ever_raised(stage_drain: int, grace: int | None, expected: int) -> None:
    chain = objects.chain()
    chain["spec"]["stages"][2]["drain"] = {"deadlineSeconds": stage_drain}
    obj = pod(spec={"containers": [], "terminationGracePeriodSeconds": grace})

    changed = admitted_pod(request(obj), lambda *_: parse(chain), Hook.HTTP_GET, SIGNER.sign).obj

    assert changed is not None
    assert changed["spec"]["terminationGracePeriodSeconds"] == expected


@pytest.mark.parametrize(
    ("grace", "hook", "liveness", "expected"),
    [
        (30, "auto", {}, 30),
        (600, "auto", {}, 30),
        (631, "auto", {}, None),
        (30, "auto", {"terminationGracePeriodSeconds": 5}, 5),
        (30, "none", {}, None),
    ],
)
def test_the_restart_of_a_container_that_hangs_does_not_get_the_time_for_a_drain(
    grace: int, hook: str, liveness: dict[str, Any], expected: int | None
) -> None:
    chain = objects.chain()
    chain["spec"]["stages"][2]["drain"] = {"deadlineSeconds": 600, "hook": hook}
    nat = {"name": "nat", "livenessProbe": {"exec": {}, **liveness}, "readinessProbe": {"exec": {}}}
    side = {"name": "side", "restartPolicy": "Always", "startupProbe": {"exec": {}, **liveness}}
    obj = pod(spec={"containers": [nat], "initContainers": [side], "terminationGracePeriodSeconds": grace})

    changed = admitted_pod(request(obj), lambda *_: parse(chain), Hook.HTTP_GET, SIGNER.sign).obj

    assert changed is not None
    (after,), (sidecar,) = changed["spec"]["containers"], changed["spec"]["initContainers"]
    assert after["livenessProbe"].get("terminationGracePeriodSeconds") == expected
    assert sidecar["startupProbe"].get("terminationGracePeriodSeconds") == expected
    assert after["readinessProbe"] == {"exec": {}}, "Kubernetes allows none there"


def test_a_sleep_is_never_shorter_than_the_api_allows() -> None:
    chain = objects.chain()
    chain["spec"]["drain"]["deadlineSeconds"] = 0

    changed = admitted_pod(request(pod()), lambda *_: parse(chain), Hook.SLEEP, SIGNER.sign).obj

    assert changed is not None
    assert changed["spec"]["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 1}}


@pytest.mark.parametrize(
    ("level", "mode"),
    [
        ("baseline", Hook.SLEEP),
        ("restricted", Hook.SLEEP),
        ("privileged", Hook.HTTP_GET),
        (None, Hook.HTTP_GET),
    ],
)
def test_the_hook_follows_the_namespaces_pod_security_level(level: str | None, mode: Hook) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}

    assert hook_for(labels) is mode


@pytest.mark.parametrize(
    ("of_chain", "of_stage", "auto", "hook", "grace"),
    [
        ({}, {}, Hook.HTTP_GET, "httpGet", 60),
        ({}, {}, Hook.SLEEP, "sleep", 60),
        ({"hook": "auto"}, {}, Hook.SLEEP, "sleep", 60),
        ({"hook": "sleep"}, {}, Hook.HTTP_GET, "sleep", 60),
        ({"hook": "httpGet"}, {}, Hook.SLEEP, "httpGet", 60),
        ({"hook": "none"}, {}, Hook.HTTP_GET, None, None),
        ({"hook": "none", "deadlineSeconds": 90}, {"hook": "auto"}, Hook.HTTP_GET, "httpGet", 120),
        ({"hook": "sleep", "deadlineSeconds": 90}, {"deadlineSeconds": 10}, Hook.HTTP_GET, "sleep", 40),
    ],
)
def test_the_drain_hook_is_the_stages_or_the_chains_choice(
    of_chain: dict[str, Any], of_stage: dict[str, Any], auto: Hook, hook: str | None, grace: int | None
) -> None:
    chain = objects.chain()
    chain["spec"]["drain"] = of_chain
    chain["spec"]["stages"][2]["drain"] = of_stage

    changed = admitted_pod(request(pod()), lambda *_: parse(chain), auto, SIGNER.sign).obj

    assert changed is not None
    (container,) = changed["spec"]["containers"]
    assert list(container.get("lifecycle", {}).get("preStop", {})) == ([hook] if hook else [])
    assert changed["spec"].get("terminationGracePeriodSeconds") == grace


def test_without_a_hook_one_that_a_copy_brought_along_goes() -> None:
    chain = objects.chain()
    chain["spec"]["stages"][2]["drain"] = {"hook": "none"}
    original = admitted_pod(request(pod()), find, Hook.HTTP_GET, SIGNER.sign).obj
    assert original is not None

    copy = {**original, "metadata": {**original["metadata"], "name": "copy"}}
    changed = admitted_pod(request(copy), lambda *_: parse(chain), Hook.HTTP_GET, SIGNER.sign).obj

    assert changed is not None
    assert changed["spec"]["containers"] == [{"name": "nat"}]


def test_deciding_leaves_the_request_as_it_was() -> None:
    obj = pod(spec={"containers": [{"name": "a", "lifecycle": {"postStart": {}}}], "affinity": {"podAffinity": {}}})
    before = json.dumps(obj)

    admitted_pod(request(obj), find, Hook.HTTP_GET, SIGNER.sign)

    assert json.dumps(obj) == before


# --- hostile input ----------------------------------------------------------------------------------------------------

KEYS = [
    "metadata",
    "spec",
    "labels",
    "annotations",
    "ownerReferences",
    "controller",
    "template",
    "containers",
    "initContainers",
    "lifecycle",
    "preStop",
    "httpGet",
    "host",
    "port",
    "path",
    "sleep",
    "restartPolicy",
    "readinessGates",
    "affinity",
    "podAffinity",
    "podAntiAffinity",
    "podAffinityTerm",
    "topologyKey",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "terminationGracePeriodSeconds",
    "hostNetwork",
    "name",
    "generateName",
    "kind",
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("ab")},
        optional={
            "restartPolicy": st.just("Always"),
            "lifecycle": st.fixed_dictionaries(
                {},
                optional={
                    "preStop": st.sampled_from(
                        [{"exec": {}}, {"sleep": {"seconds": 30}}, {"httpGet": {"host": "127.0.0.1", "port": 9810}}, {}]
                    )
                    | json_values,
                    "postStart": json_values,
                },
            ),
        },
    ),
    max_size=3,
)
networks = st.sampled_from(["", "a", "a,b@x", '[{"name":"sfc"}]', '[{"name":"a","interface":"inside"}]', "["])
term = st.fixed_dictionaries({"topologyKey": st.sampled_from(["zone", "kubernetes.io/hostname"])})
preferred = st.fixed_dictionaries({"weight": st.integers(1, 100), "podAffinityTerm": term})
rules = st.fixed_dictionaries(
    {},
    optional={
        "requiredDuringSchedulingIgnoredDuringExecution": st.lists(term, max_size=2),
        "preferredDuringSchedulingIgnoredDuringExecution": st.lists(preferred, max_size=2),
    },
)
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": st.just(BOTH)},
            optional={
                "name": st.just("nat-0"),
                "generateName": st.just("nat-"),
                "annotations": st.fixed_dictionaries({}, optional={names.NETWORKS_ANNOTATION: networks}),
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": containers},
            optional={
                "initContainers": containers,
                "terminationGracePeriodSeconds": st.integers(0, 5000),
                "readinessGates": st.lists(st.just({"conditionType": "x"}), max_size=2),
                "affinity": st.fixed_dictionaries({}, optional={"podAffinity": rules, "podAntiAffinity": rules}),
            },
        ),
    }
)


def reviewed(decide: Any, envelope: object) -> dict[str, Any] | None:
    """The response, or None for what is no AdmissionReview."""
    try:
        return json.loads(review(json.dumps(envelope).encode(), decide).body)["response"]
    except Malformed:
        return None


def patched(obj: Any, response: dict[str, Any]) -> Any:
    return jsonpatch.apply_patch(obj, base64.b64decode(response.get("patch", "W10=")).decode())


def contains(larger: Any, smaller: Any) -> bool:
    """Whether everything of `smaller` is still in `larger`."""
    if isinstance(smaller, dict):
        return isinstance(larger, dict) and all(k in larger and contains(larger[k], v) for k, v in smaller.items())
    if isinstance(smaller, list):
        return isinstance(larger, list) and all(map(contains, larger, smaller)) and len(larger) >= len(smaller)
    return bool(larger == smaller)


def decide_pod(mode: Hook) -> Any:
    return lambda asked: mutate.pod(asked, find, mode, SIGNER.sign)


@settings(max_examples=300)
@given(pods, st.sampled_from(Hook))
def test_a_patched_pod_is_patched_no_further_but_for_its_drain_id(obj: dict[str, Any], mode: Hook) -> None:
    envelope = objects_review(obj)
    response = reviewed(decide_pod(mode), envelope)
    if response is None or not response["allowed"]:
        return

    once = patched(obj, response)
    same, other = (reviewed(decide_pod(mode), objects_review(once, uid=uid)) for uid in ("u-1", "u-2"))

    assert same is not None
    assert other is not None
    assert same["allowed"]
    assert "patch" not in same
    assert other["allowed"]


@settings(max_examples=300)
@given(pods, st.sampled_from(Hook))
def test_nothing_of_a_pod_is_lost(obj: dict[str, Any], mode: Hook) -> None:
    response = reviewed(decide_pod(mode), objects_review(obj))
    if response is None or not response["allowed"]:
        return

    result = patched(obj, response)

    ours = ("terminationGracePeriodSeconds", "containers", "initContainers")
    kept = {**obj, "spec": {k: v for k, v in obj["spec"].items() if k not in ours}}
    kept["metadata"] = {**obj["metadata"], "annotations": {}}
    assert contains(result, kept)
    grace = "terminationGracePeriodSeconds"
    assert result["spec"].get(grace, 30) >= obj["spec"].get(grace, 30)
    for group in ("containers", "initContainers"):
        for before, after in zip(obj["spec"].get(group, []), result["spec"].get(group, []), strict=True):
            assert before.get("lifecycle", {}).get("postStart") == after.get("lifecycle", {}).get("postStart")
            own = before.get("lifecycle", {}).get("preStop")
            if own and not isinstance(own.get("httpGet"), dict):
                assert after["lifecycle"]["preStop"] == own


def objects_review(obj: Any, uid: str = "u-1") -> dict[str, Any]:
    asked = {"uid": uid, "operation": "CREATE", "namespace": "telco", "object": obj}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


DECIDERS = [
    decide_pod(Hook.HTTP_GET),
    lambda asked: mutate.workload(asked, find, Hook.HTTP_GET),
    validate.chain,
]


@settings(max_examples=300)
@given(json_values, st.sampled_from(["CREATE", "UPDATE", "DELETE"]), st.sampled_from(DECIDERS))
def test_any_json_gets_an_answer_or_is_malformed(value: Any, operation: str, decide: Any) -> None:
    labelled = {"metadata": {"labels": BOTH, "annotations": value}, "spec": value}
    for obj in (value, labelled, {"metadata": value, "spec": value}):
        envelope = objects_review(obj)
        envelope["request"] |= {"operation": operation, "oldObject": value}

        response = reviewed(decide, envelope)

        assert response is None or response["uid"] == "u-1"


@settings(max_examples=500)
@given(st.data())
def test_whatever_is_decided_the_patch_makes_it_out_of_the_request(data: st.DataObject) -> None:
    """Parts that stay, parts that are equal, lists of one length and of another, null for a value."""
    old = data.draw(st.dictionaries(st.sampled_from("ab/~"), json_values, max_size=3))
    edits = data.draw(edits_of(old))

    response = reviewed(lambda _: Decision(tuple(edits)), objects_review(old))

    assert response is not None
    assert patched(old, response) == edited(old, edits)


def test_what_is_taken_out_and_put_elsewhere_is_written_twice() -> None:
    """Not as a move: one between two lists' ends would come in an order that no API server can apply."""
    old: dict[str, Any] = {"a": [], "b": {"gone": [], "kept": 1}}
    edits: tuple[Edit, ...] = ((("b", "gone"), None), (("a",), [[], ["more"]]))

    response = reviewed(lambda _: Decision(edits), objects_review(old))

    assert response is not None
    assert patched(old, response) == {"a": [[], ["more"]], "b": {"kept": 1}}
    assert "move" not in {operation["op"] for operation in json.loads(base64.b64decode(response["patch"]))}


def test_a_mapping_that_becomes_empty_goes_and_an_element_of_a_list_stays() -> None:
    old = {"a": {"b": {"c": 1}}, "list": [{"d": {"e": 2}}]}
    edits: tuple[Edit, ...] = ((("a", "b", "c"), None), (("list", 0, "d", "e"), None))

    response = reviewed(lambda _: Decision(edits), objects_review(old))

    assert response is not None
    assert patched(old, response) == {"list": [{}]}


@st.composite
def edits_of(draw: st.DrawFn, value: Any) -> list[Edit]:
    """Edits of the parts of a mapping or list."""
    edits: list[Edit] = []
    is_list = isinstance(value, list)
    for key, item in enumerate(value) if is_list else value.items():
        choice = draw(st.sampled_from(["same", "inside", "inside", "fewer", "other"]))
        if choice == "inside" and item and isinstance(item, dict | list):
            edits += [((key, *path), new) for path, new in draw(edits_of(item))]
        elif choice == "fewer" and isinstance(item, list):
            edits.append(((key,), [element for element in item if draw(st.booleans())]))
        elif choice == "other":
            edits.append(((key,), draw(json_values.filter(lambda new: new is not None) if is_list else json_values)))
    if draw(st.booleans()):
        more = draw(json_values.filter(lambda new: new is not None))
        edits.append((draw(st.sampled_from([("added",), ("added", "below")])) if not is_list else (len(value),), more))
    return edits


def edited(value: Any, edits: list[Edit]) -> Any:
    for path, new in edits:
        value = put(value, path, new)
    return value


def put(value: Any, path: Any, new: Any) -> Any:
    key, *rest = path
    if isinstance(value, list):
        return [*value[:key], put(value[key], rest, new) if rest else new, *value[key + 1 :]]
    others = {name: item for name, item in value.items() if name != key}
    if not rest:
        return others if new is None else others | {key: new}
    inner = put(value.get(key, {}), rest, new)
    return others if inner == {} else others | {key: inner}


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer_or_are_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        review(body, validate.chain)


def test_of_equal_keys_the_last_one_counts_as_in_go() -> None:
    body = json.dumps(objects_review(pod())).replace('"name": "nat-0"', '"name": "other", "name": "nat-0"')
    assert body.count('"name": "other"') == 1

    twice = review(body.encode(), decide_pod(Hook.HTTP_GET))

    assert twice == review(json.dumps(objects_review(pod())).encode(), decide_pod(Hook.HTTP_GET))


@pytest.mark.parametrize(("amount", "allowed"), [(500, True), (501, False)])
def test_a_pod_has_at_most_500_containers(amount: int, allowed: bool) -> None:
    obj = pod(spec={"containers": [{"name": "a"}] * (amount - 1), "initContainers": [{"name": "b"}]})

    decision = mutate.pod(request(obj), find, Hook.HTTP_GET, SIGNER.sign)

    assert (decision.denied is None) is allowed
    assert allowed or "The pod has 501 containers, 500 are allowed" in str(decision.denied)


@pytest.mark.parametrize("piece", ['{"name":"a"}', '{"conditionType":"x"}', "[]", '"ab"', "1.5", "12345"])
def test_no_body_of_the_largest_size_takes_longer_than_the_api_server_waits(piece: str) -> None:
    lists = ("containers", "initContainers", "readinessGates", "tolerations")
    spec = {key: ["FILL"] for key in lists} | {"affinity": {"podAffinity": {PREFERRED: ["FILL"]}}}
    template = json.dumps(objects_review({**pod(), "spec": spec}))
    fill = ",".join([piece] * (MAX_BODY_BYTES // 5 // (len(piece) + 1)))
    body = template.replace('"FILL"', fill).encode()
    started = time.process_time()

    with suppress(Malformed):
        review(body, decide_pod(Hook.HTTP_GET))

    assert time.process_time() - started < 3


def test_a_lone_surrogate_is_answered() -> None:
    broken = pod()
    broken["metadata"]["labels"] = {"sfc.dev/chain": "\ud800", "sfc.dev/stage": "nat"}

    response = reviewed(decide_pod(Hook.HTTP_GET), objects_review(broken, uid="\udfff"))

    assert response is not None
    assert response["uid"] == "\udfff"
    assert not response["allowed"]


def test_deep_nesting_is_answered_or_malformed() -> None:
    for depth in (100, 300, 500, 900, 5000):
        deep = '{"a":' * depth + "1" + "}" * depth
        template = json.dumps(objects_review({**pod(), "spec": "DEEP", "status": "DEEP"}))
        body = template.replace('"DEEP"', deep).encode()

        for decide in DECIDERS:
            try:
                assert json.loads(review(body, decide).body)["response"]["uid"] == "u-1"
            except Malformed as error:
                assert str(error)
