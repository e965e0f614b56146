"""The manifests as `kubectl apply -k deploy` renders them, compared with the names in the code."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from certs import secrets
from controller.cluster import install, lease, plan
from controller.node.plane.sessions import DEFAULT_PATIENCE
from serving.access import PATH
from sfc import names
from sfc.chain import PREFER_SAME_NODE, Hook, SessionKey
from sfc.validation import fault
from sfc.validation.bounds import BOUNDS
from testbed import build, wheels
from testbed.__main__ import DEFAULT_KUBERNETES
from tests.cluster import schemas
from tests.cluster.conftest import Kubectl, eventually

MUTATING = ("workloads.sfc.dev", "pods.sfc.dev", "stage-only-workloads.sfc.dev", "stage-only-pods.sfc.dev")
BEST_GRADE = 10
DEPLOY = Path(__file__).parents[2] / "deploy"

Json = dict[str, Any]


def kustomize(folder: Path) -> list[Json]:
    """What `kubectl kustomize` renders; it needs no cluster."""
    kubectl = build.binaries(os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES).kubectl
    result = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(result.stdout))


def with_components(folder: Path, *components: str) -> Path:
    """The folder, with a kustomization as a user's own: deploy/ and some of its components."""
    relative = os.path.relpath(DEPLOY, folder)
    user = {"resources": [relative], "components": [f"{relative}/components/{name}" for name in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(user))
    return folder


@pytest.fixture(scope="module")
def rendered() -> list[Json]:
    return kustomize(DEPLOY)


def one(rendered: list[Json], kind: str, name: str) -> Json:
    (found,) = [o for o in rendered if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def pod_spec(rendered: list[Json], kind: str, name: str) -> Json:
    spec: Json = one(rendered, kind, name)["spec"]["template"]["spec"]
    return spec


def configurations(rendered: list[Json]) -> list[Json]:
    """The webhook configurations that the install Job gets."""
    file = one(rendered, "ConfigMap", "sfc-webhook-configurations")["data"]["admission.yaml"]
    return list(yaml.safe_load_all(file))


def webhooks(rendered: list[Json]) -> dict[str, Json]:
    found = configurations(rendered)
    assert {(c["kind"], c["metadata"]["name"]) for c in found} == {
        ("MutatingWebhookConfiguration", install.CONFIGURATION),
        ("ValidatingWebhookConfiguration", install.CONFIGURATION),
    }
    return {w["name"]: w for configuration in found for w in configuration["webhooks"]}


def schema(rendered: list[Json], plural: str) -> Json:
    (version,) = one(rendered, "CustomResourceDefinition", f"{plural}.{names.GROUP}")["spec"]["versions"]
    result: Json = version["schema"]["openAPIV3Schema"]["properties"]
    return result


def test_nothing_is_rendered_twice(rendered: list[Json]) -> None:
    found = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in rendered]

    assert len(found) == len(set(found))


@pytest.fixture(scope="module")
def kubeconform(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Json]], list[str]]:
    """kubeconform's findings, by the schemas of this API server and of cert-manager."""
    folder = tmp_path_factory.mktemp("schemas")
    ours = [yaml.safe_load(file.read_text()) for file in (DEPLOY / "crds").iterdir()]
    theirs = [yaml.safe_load(file.read_text()) for file in (build.cert_manager() / "deploy/crds").glob("*.yaml")]
    schemas.write(folder, json.loads(Kubectl()("get", "--raw", "/openapi/v2")), [*ours, *theirs])
    program = build.manifest_checkers() / "kubeconform"

    def check(objects: list[Json]) -> list[str]:
        done = subprocess.run(
            [program, "-strict", "-output=json", "-verbose", f"-schema-location={folder}/{schemas.LOCATION}"],
            input=yaml.safe_dump_all(objects),
            capture_output=True,
            text=True,
            check=False,
        )
        results = json.loads(done.stdout)["resources"]
        assert len(results) == len(objects), done.stderr
        return [f"{r['kind']} {r['name']}: {r['msg']}" for r in results if r["status"] != "statusValid"]

    return check


def test_manifests_conform_to_their_schemas(
    rendered: list[Json], kubeconform: Callable[[list[Json]], list[str]]
) -> None:
    assert kubeconform([*rendered, *configurations(rendered)]) == []


def test_cert_manager_component_conforms_to_its_schemas(
    with_cert_manager: list[Json], kubeconform: Callable[[list[Json]], list[str]]
) -> None:
    assert {"Issuer", "Certificate"} <= {o["kind"] for o in with_cert_manager}
    assert kubeconform(with_cert_manager) == []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "resource"), {}),
        ("MutatingWebhookConfiguration", ("webhooks", 0, "timeoutSeconds"), "5"),
        ("Certificate", ("spec", "renewalBefore"), "1h"),
    ],
)
def test_a_slip_in_a_manifest_is_found(
    with_cert_manager: list[Json],
    kubeconform: Callable[[list[Json]], list[str]],
    kind: str,
    path: tuple[str | int, ...],
    value: Any,
) -> None:
    everything = [*with_cert_manager, *configurations(with_cert_manager)]
    broken = copy.deepcopy(next(o for o in everything if o["kind"] == kind))
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    (finding,) = kubeconform([broken])

    assert str(path[-1]) in finding


def test_the_api_server_takes_every_manifest_strictly(installed: None, rendered: list[Json]) -> None:
    """This includes admission, defaulting and the compilation of every CEL expression."""
    Kubectl()("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(rendered))
    Kubectl()("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=new(configurations(rendered)))


def new(objects: list[Json]) -> str:
    """YAML of the objects under names that are not taken."""
    return yaml.safe_dump_all([{**o, "metadata": {"name": f"{o['metadata']['name']}-new"}} for o in objects])


@pytest.fixture(scope="module")
def linted(rendered: list[Json], tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that users may apply: deploy/ without and with all its components, and the examples; each object once."""
    components = [folder.name for folder in (DEPLOY / "components").iterdir()]
    full = kustomize(with_components(tmp_path_factory.mktemp("kustomization"), *components))
    examples = [o for file in (DEPLOY / "examples").glob("*.yaml") for o in yaml.safe_load_all(file.read_text())]
    every = {json.dumps(o, sort_keys=True): o for o in [*rendered, *full, *examples]}
    return yaml.safe_dump_all(every.values())


@pytest.mark.parametrize("linter", ["kube-score", "checkov"])
def test_every_finding_of_a_linter_is_explained(linted: str, linter: str, tmp_path: Path) -> None:
    explained = {
        (check, obj)
        for entry in yaml.safe_load((DEPLOY / "findings.yaml").read_text())
        for check in entry.get(linter, ())
        for obj in entry["objects"]
        if entry["reason"]
    }

    found = {"kube-score": findings_of_kube_score, "checkov": findings_of_checkov}[linter](linted, tmp_path)

    assert sorted(found - explained) == [], "without a reason in deploy/findings.yaml"
    assert sorted(explained - found) == [], "in deploy/findings.yaml, but not found any more"


def findings_of_kube_score(manifests: str, _: Path) -> set[tuple[str, str]]:
    command = [build.manifest_checkers() / "kube-score", "score", "--output-format=json", "-"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    return {
        (check["check"]["id"], f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}")
        for scored in json.loads(done.stdout)
        for check in scored["checks"]
        if not check["skipped"] and check["grade"] < BEST_GRADE
    }


def findings_of_checkov(manifests: str, folder: Path) -> set[tuple[str, str]]:
    """Without a network, so that it decides by what is pinned here; by its own packages (-S: no others)."""
    (folder / "manifests.yaml").write_text(manifests)
    command = ["unshare", "--net", sys.executable, "-S", "-m", "checkov.main", f"--file={folder}/manifests.yaml"]
    options = ["--framework=kubernetes", "--skip-download", "--quiet", "--compact", "--output=json"]
    environment = {**os.environ, "PYTHONPATH": str(wheels.folder("checkov"))}
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0 and report["summary"]["passed"] > 0, done.stderr
    resources = [(check["check_id"], check["resource"].split(".", 2)) for check in report["results"]["failed_checks"]]
    return {(check, f"{kind}/{name}") for check, (kind, _, name) in resources}


@pytest.fixture(scope="module")
def with_cert_manager(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    return kustomize(with_components(tmp_path_factory.mktemp("kustomization"), "cert-manager"))


def test_with_the_component_for_api_servers_only_their_addresses_reach_admission(
    tmp_path: Path, kubeconform: Callable[[list[Json]], list[str]]
) -> None:
    policy = one(kustomize(with_components(tmp_path, "api-servers")), "NetworkPolicy", "sfc-webhook")

    admission = [rule for rule in policy["spec"]["ingress"] if any(p["port"] == "https" for p in rule["ports"])]

    assert [rule["from"] for rule in admission] == [[{"ipBlock": {"cidr": "192.0.2.10/32"}}]]
    assert kubeconform([policy]) == []


def test_with_cert_manager_there_is_one_writer_of_certificates(with_cert_manager: list[Json]) -> None:
    written = {n for r, _, n in granted(with_cert_manager, "sfc-install") if r == "/secrets" and n}

    for spec in install_pods(with_cert_manager):
        assert spec["containers"][0]["args"][1:] == ["--no-certificates"]
    assert written == {f"{names.DOOR_SECRET},{names.HASH_KEY_SECRET}"}


def install_pods(rendered: list[Json]) -> list[Json]:
    """The pods of the install's Job and CronJob."""
    job, cron_job = one(rendered, "Job", "sfc-install"), one(rendered, "CronJob", "sfc-install")
    return [j["spec"]["template"]["spec"] for j in (job, cron_job["spec"]["jobTemplate"])]


def test_what_is_done_at_night_is_what_was_done_at_the_install(rendered: list[Json]) -> None:
    job, cron_job = one(rendered, "Job", "sfc-install"), one(rendered, "CronJob", "sfc-install")

    assert job["spec"]["template"] == cron_job["spec"]["jobTemplate"]["spec"]["template"]


def test_nothing_that_keeps_running_may_write_webhook_configurations(rendered: list[Json]) -> None:
    may = {o["metadata"]["name"] for o in rendered if o["kind"] == "ClusterRole" and "webhookconf" in json.dumps(o)}
    bound = {
        (subject["name"])
        for o in rendered
        if o["kind"] == "ClusterRoleBinding" and o["roleRef"]["name"] in may
        for subject in o["subjects"]
    }
    running = {o["spec"]["template"]["spec"]["serviceAccountName"] for o in rendered if o["kind"] in RUNNING}

    assert may == bound == {"sfc-install"}
    assert not bound & running


RUNNING = ("Deployment", "DaemonSet", "StatefulSet")


def test_certificate_of_cert_manager_for_metrics_is_the_one_that_all_mount(with_cert_manager: list[Json]) -> None:
    certificate = one(with_cert_manager, "Certificate", "sfc-metrics")["spec"]

    assert (certificate["secretName"], certificate["dnsNames"]) == (secrets.METRICS_SECRET, [*secrets.METRICS_NAMES])


def test_certificate_of_cert_manager_is_the_one_the_webhook_mounts_and_is_trusted(
    with_cert_manager: list[Json],
) -> None:
    certificate = one(with_cert_manager, "Certificate", "sfc-webhook")

    assert certificate["spec"]["secretName"] == secrets.SERVING_SECRET
    assert certificate["spec"]["dnsNames"] == list(secrets.SERVICE_NAMES)
    assert certificate["metadata"]["name"] == install.WEBHOOK, "the annotation of the configurations names it"


def test_everything_that_has_a_namespace_is_in_ours(rendered: list[Json]) -> None:
    namespaces = {o["metadata"].get("namespace") for o in rendered}

    assert namespaces == {None, names.SYSTEM_NAMESPACE}


@pytest.mark.parametrize(
    ("plural", "kind", "short"),
    [
        (names.CHAIN_PLURAL, names.CHAIN_KIND, "sfc"),
        (names.CROSS_CONNECTION_PLURAL, names.CROSS_CONNECTION_KIND, "xc"),
    ],
)
def test_custom_resources_have_the_names_of_the_code(rendered: list[Json], plural: str, kind: str, short: str) -> None:
    crd = one(rendered, "CustomResourceDefinition", f"{plural}.{names.GROUP}")["spec"]

    assert (crd["group"], crd["names"]["kind"], crd["names"]["plural"]) == (names.GROUP, kind, plural)
    assert crd["names"]["shortNames"] == [short]
    assert crd["names"]["categories"] == ["chains"]
    assert [v["name"] for v in crd["versions"]] == [names.VERSION]
    assert all("status" in v["subresources"] for v in crd["versions"])


def test_schema_has_the_limits_of_validation(rendered: list[Json]) -> None:
    spec = schema(rendered, names.CHAIN_PLURAL)["spec"]["properties"]
    stage = spec["stages"]["items"]["properties"]
    interface = stage["interfaces"]["items"]["properties"]

    assert spec["stages"]["maxItems"] == fault.MAX_STAGES
    assert stage["publishNotReadyAddresses"]["type"] == "boolean"
    assert spec["trafficDistribution"]["x-kubernetes-validations"][0]["rule"] == f"self == '{PREFER_SAME_NODE}'"
    for keyed in (spec, interface):
        assert keyed["sessionKey"]["x-kubernetes-validations"][0]["rule"] == f"self in {[str(k) for k in SessionKey]}"
    assert stage["interfaces"]["maxItems"] == fault.MAX_INTERFACES
    assert spec["links"]["maxItems"] == fault.MAX_LINKS
    assert interface["addresses"]["maxItems"] == fault.MAX_ADDRESSES
    assert interface["routes"]["maxItems"] == fault.MAX_ROUTES
    rules = " ".join(rule["rule"] + rule["message"] for rule in spec["stages"]["x-kubernetes-validations"])
    for what, most in BOUNDS.items():
        assert f" <= {most}have too many {what} in all, {most} are allowed" in rules
    assert (interface["mtu"]["minimum"], interface["mtu"]["maximum"]) == (fault.MIN_MTU, fault.MAX_MTU)
    slices = interface["sourcePorts"]["properties"]["slices"]
    assert (slices["minimum"], slices["maximum"]) == (1, fault.MAX_SLICES)
    for drain in (spec["drain"], stage["drain"]):
        assert drain["properties"]["deadlineSeconds"]["maximum"] == fault.MAX_DEADLINE_SECONDS
        assert drain["properties"]["hook"]["enum"] == list(Hook)
    idle = spec["drain"]["properties"]["idle"]["properties"]
    assert {name: int(kind["description"].rpartition("Default: ")[2][:-1]) for name, kind in idle.items()} == asdict(
        DEFAULT_PATIENCE
    )
    assert {(kind["minimum"], kind["maximum"]) for kind in idle.values()} == {(1, fault.MAX_IDLE_SECONDS)}
    assert "idle" not in stage["drain"]["properties"]


def test_every_rule_of_the_schema_says_what_is_wrong(rendered: list[Json]) -> None:
    rules = [
        rule
        for plural in (names.CHAIN_PLURAL, names.CROSS_CONNECTION_PLURAL)
        for rule in _rules(schema(rendered, plural))
    ]

    assert len(rules) > 10
    assert all("message" in rule or "messageExpression" in rule for rule in rules)


def _rules(node: Any) -> list[Json]:
    if isinstance(node, list):
        return [rule for element in node for rule in _rules(element)]
    if isinstance(node, dict):
        return list(node.get("x-kubernetes-validations", ())) + _rules(list(node.values()))
    return []


def test_webhook_is_asked_about_labelled_objects_outside_of_system_namespaces_only(rendered: list[Json]) -> None:
    for name in MUTATING:
        webhook = webhooks(rendered)[name]
        excluded, opt_out = webhook["namespaceSelector"]["matchExpressions"]
        keys = {e["key"] for e in webhook["objectSelector"]["matchExpressions"] if e["operator"] == "Exists"}

        assert keys and keys <= {names.CHAIN_LABEL, names.STAGE_LABEL}
        assert excluded["operator"] == "NotIn"
        assert set(excluded["values"]) == {"kube-system", "kube-public", "kube-node-lease", names.SYSTEM_NAMESPACE}
        assert opt_out == {"key": "sfc.dev/injection", "operator": "NotIn", "values": ["disabled"]}


def test_objects_that_the_webhook_should_see_are_not_let_past_it(rendered: list[Json]) -> None:
    policies = {name: webhook["failurePolicy"] for name, webhook in webhooks(rendered).items()}

    assert policies == dict.fromkeys((*MUTATING, "chains.sfc.dev"), "Fail") | {
        "chain-deletions.sfc.dev": "Ignore",
        "copies-of-replicas.sfc.dev": "Ignore",
        "templates.sfc.dev": "Ignore",
        "relabelled-pods.sfc.dev": "Ignore",
    }


@pytest.mark.parametrize("kind", ["workloads", "pods"])
def test_either_label_alone_selects(rendered: list[Json], kind: str) -> None:
    both = [webhooks(rendered)[name] for name in (f"{kind}.sfc.dev", f"stage-only-{kind}.sfc.dev")]
    first, second = (
        {e["key"]: e["operator"] for e in webhook["objectSelector"]["matchExpressions"]} for webhook in both
    )

    assert first == {names.CHAIN_LABEL: "Exists"}
    assert second == {names.CHAIN_LABEL: "DoesNotExist", names.STAGE_LABEL: "Exists"}
    assert all(both[0][field] == both[1][field] for field in ("clientConfig", "rules", "matchConditions"))


def test_webhook_calls_have_no_side_effects_and_are_short(rendered: list[Json]) -> None:
    for webhook in webhooks(rendered).values():
        assert webhook["sideEffects"] == "None"
        assert webhook["timeoutSeconds"] <= 5
        assert "caBundle" not in webhook["clientConfig"], "the install Job writes it"


def test_service_leads_to_the_names_on_the_certificate(rendered: list[Json]) -> None:
    service = one(rendered, "Service", "sfc-webhook")

    for webhook in webhooks(rendered).values():
        called = webhook["clientConfig"]["service"]
        assert f"{called['name']}.{called['namespace']}.svc" in secrets.SERVICE_NAMES
        assert called["port"] == service["spec"]["ports"][0]["port"]


@pytest.mark.parametrize("name", ["sfc-webhook", "sfc-cluster-controller"])
def test_unprivileged_components_pass_pod_security_restricted(rendered: list[Json], name: str) -> None:
    spec = pod_spec(rendered, "Deployment", name)

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.get("hostNetwork")
    assert all("secret" in volume or "configMap" in volume for volume in spec.get("volumes", ()))
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize(
    ("kind", "name", "violations"),
    [
        ("Deployment", "sfc-webhook", ""),
        ("Deployment", "sfc-cluster-controller", ""),
        ("DaemonSet", "sfc-node", 'violates PodSecurity "restricted'),
    ],
)
def test_only_the_node_agent_would_be_refused_where_restricted_is_enforced(
    rendered: list[Json], kubectl: Kubectl, kind: str, name: str, violations: str
) -> None:
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    spec = {**pod_spec(rendered, kind, name), "serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)

    done = kubectl.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))

    assert (done.returncode == 0) == (violations == "")
    assert violations in done.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Deployment", "sfc-webhook"),
        ("Deployment", "sfc-cluster-controller"),
        ("DaemonSet", "sfc-node"),
        ("Job", "sfc-install"),
    ],
)
def test_pods_are_only_where_their_images_run(rendered: list[Json], kind: str, name: str) -> None:
    assert pod_spec(rendered, kind, name)["nodeSelector"] == {
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }


def test_webhook_stays_available(rendered: list[Json]) -> None:
    deployment = one(rendered, "Deployment", "sfc-webhook")["spec"]

    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert one(rendered, "PodDisruptionBudget", "sfc-webhook")["spec"]["minAvailable"] == 1


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "sfc-webhook"), ("DaemonSet", "sfc-node")])
def test_secrets_that_pods_wait_for_are_those_that_somebody_makes(rendered: list[Json], kind: str, name: str) -> None:
    mounted = [v["secret"] for v in pod_spec(rendered, kind, name)["volumes"] if "secret" in v]
    volumes = [v for v in mounted if v["secretName"] != secrets.METRICS_SECRET]
    expected = {
        "sfc-webhook": {secrets.SERVING_SECRET, names.DOOR_SECRET, names.STATEMENT_KEY_SECRET},
        "sfc-node": {names.HASH_KEY_SECRET},
    }

    assert {v["secretName"] for v in volumes} == expected[name]
    assert not any(v.get("optional") for v in volumes)
    assert all(v["defaultMode"] & 0o007 == 0 for v in volumes), "never world-readable"


def test_node_agents_have_public_keys_alone_and_the_webhook_the_key_that_signs(rendered: list[Json]) -> None:
    of_node = pod_spec(rendered, "DaemonSet", "sfc-node")["volumes"]
    of_webhook = pod_spec(rendered, "Deployment", "sfc-webhook")["volumes"]

    assert [v["configMap"]["name"] for v in of_node if "configMap" in v] == [names.STATEMENT_KEYS]
    assert names.STATEMENT_KEY_SECRET not in {v["secret"]["secretName"] for v in of_node if "secret" in v}
    (key,) = [v["secret"] for v in of_webhook if v.get("secret", {}).get("secretName") == names.STATEMENT_KEY_SECRET]
    assert [item["key"] for item in key["items"]] == [names.STATEMENT_KEY_FIELD]


def test_the_node_agent_alone_reads_the_hash_key_and_the_install_alone_has_a_right_to_it(rendered: list[Json]) -> None:
    templates = {o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in rendered if o["kind"] in RUNNING}
    mounts = {
        (name, container["name"], mount["mountPath"], mount["readOnly"])
        for name, spec in templates.items()
        for volume in spec.get("volumes", ())
        if (volume.get("secret") or {}).get("secretName") == names.HASH_KEY_SECRET
        for container in (*spec["containers"], *spec.get("initContainers", ()))
        for mount in container["volumeMounts"]
        if mount["name"] == volume["name"]
    }
    rights = {o["metadata"]["name"] for o in rendered if o["kind"] == "Role" and names.HASH_KEY_SECRET in json.dumps(o)}

    assert mounts == {("sfc-node", "node", "/etc/sfc/hash-key", True)}
    assert rights == {"sfc-install"}


def test_node_agent_has_what_its_names_promise(rendered: list[Json]) -> None:
    spec = pod_spec(rendered, "DaemonSet", "sfc-node")
    agent, hooks = spec["containers"]
    mounts = {m["mountPath"] for m in agent["volumeMounts"]}

    assert spec["hostNetwork"] is True
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert "ports" not in agent, "a port of the node would keep the next agent from starting beside this one"
    assert str(Path(names.CNI_SOCKET).parent) in mounts
    assert "/sys/fs/bpf" in mounts
    assert {e["name"] for e in agent["env"]} == {"NODE_NAME", "NODE_ADDRESS", "POD_NAME"}
    assert hooks["readinessProbe"]["tcpSocket"] == {"host": names.HOOK_HOST, "port": names.HOOK_PORT}
    asked = {"path": "/healthz", "host": names.HEALTH_HOST, "port": names.RELAY_HEALTH_PORT}
    assert hooks["livenessProbe"]["httpGet"] == asked
    assert f"/opt/cni/bin/{names.CNI_TYPE}" in spec["initContainers"][0]["command"][-1]
    for probe in (agent["readinessProbe"], agent["livenessProbe"]):
        assert (probe["httpGet"]["host"], probe["httpGet"]["port"]) == (names.HEALTH_HOST, names.HEALTH_PORT)


def test_node_agent_has_the_capabilities_it_needs_and_is_not_privileged(rendered: list[Json]) -> None:
    spec = pod_spec(rendered, "DaemonSet", "sfc-node")
    agent = spec["containers"][0]["securityContext"]

    assert agent["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN"]}
    assert agent["seccompProfile"] == {"type": "RuntimeDefault"}
    assert agent["readOnlyRootFilesystem"] is True
    assert all("privileged" not in c["securityContext"] for c in (*spec["initContainers"], *spec["containers"]))


def test_relay_is_nobody_sees_its_own_sockets_and_has_no_token(rendered: list[Json]) -> None:
    spec = pod_spec(rendered, "DaemonSet", "sfc-node")
    agent, relay = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in relay["volumeMounts"]}
    token = [m["mountPath"] for m in agent["volumeMounts"] if "projected" in volumes[m["name"]]]

    assert mounts.keys() == {str(Path(names.HOOK_SOCKET).parent), "/tmp"}
    assert mounts[str(Path(names.PORT_SOCKET).parent)]["hostPath"]["path"] == str(Path(names.HOOK_SOCKET).parent)
    assert relay["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": names.RELAY,
        "runAsGroup": names.RELAY,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["securityContext"]["supplementalGroups"] == [names.RELAY]
    assert spec["automountServiceAccountToken"] is False
    assert token == ["/var/run/secrets/kubernetes.io/serviceaccount"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Deployment", "sfc-webhook"), ("Deployment", "sfc-cluster-controller"), ("DaemonSet", "sfc-node")],
)
def test_nobody_waits_for_the_certificate_of_metrics(rendered: list[Json], kind: str, name: str) -> None:
    spec = pod_spec(rendered, kind, name)
    (volume,) = [v for v in spec["volumes"] if v.get("secret", {}).get("secretName") == secrets.METRICS_SECRET]
    mounts = [m["mountPath"] for c in spec["containers"] for m in c["volumeMounts"] if m["name"] == volume["name"]]

    assert volume["secret"]["optional"] is True
    assert volume["secret"]["defaultMode"] & 0o007 == 0
    assert set(mounts) == {names.METRICS_CERTIFICATE}


def test_network_policies_open_no_port_for_health(rendered: list[Json]) -> None:
    policies = [o["spec"] for o in rendered if o["kind"] == "NetworkPolicy"]
    opened = {p["port"] for policy in policies for rule in policy.get("ingress", ()) for p in rule["ports"]}

    assert opened == {"https", "metrics", "metrics-twin"}


def test_whoever_may_read_metrics_may_do_nothing_else(rendered: list[Json]) -> None:
    assert one(rendered, "ClusterRole", "sfc-metrics-reader")["rules"] == [
        {"nonResourceURLs": [PATH], "verbs": ["get"]}
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Deployment", "sfc-webhook"), ("Deployment", "sfc-cluster-controller"), ("DaemonSet", "sfc-node")],
)
def test_every_component_has_an_account_probes_a_priority_and_bounded_memory(
    rendered: list[Json], kind: str, name: str
) -> None:
    spec = pod_spec(rendered, kind, name)

    assert spec["serviceAccountName"] == name
    assert one(rendered, "ServiceAccount", name)
    assert spec["priorityClassName"].startswith("system-")
    for container in spec["containers"]:
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        assert container["resources"]["limits"]["memory"]


def granted(rendered: list[Json], component: str) -> set[tuple[str, str, str]]:
    """A component's rights: (group/resource, verb, the names to which they are restricted)."""
    roles = [o for o in rendered if o["kind"] in ("Role", "ClusterRole") and o["metadata"]["name"] == component]
    return {
        (f"{group}/{resource}", verb, ",".join(rule.get("resourceNames", ())))
        for role in roles
        for rule in role["rules"]
        if "apiGroups" in rule
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


REVIEWS = {
    ("authentication.k8s.io/tokenreviews", "create", ""),
    ("authorization.k8s.io/subjectaccessreviews", "create", ""),
}
"""Questions, which change nothing: who may read metrics."""


def test_webhook_can_only_read(rendered: list[Json]) -> None:
    assert {verb for _, verb, _ in granted(rendered, "sfc-webhook") - REVIEWS} == {"list", "watch"}
    assert "/secrets" not in {resource for resource, _, _ in granted(rendered, "sfc-webhook")}


def test_node_agent_writes_status_and_events_only(rendered: list[Json]) -> None:
    writes = {(r, v) for r, v, _ in granted(rendered, "sfc-node") - REVIEWS if v not in ("get", "list", "watch")}

    assert writes == {
        ("sfc.dev/crossconnections/status", "patch"),
        ("/pods/status", "patch"),
        ("/events", "create"),
        ("/events", "patch"),
    }


def test_cluster_controller_writes_nothing_of_the_users_but_what_pods_wait_for(rendered: list[Json]) -> None:
    writes = {(r, v) for r, v, _ in granted(rendered, "sfc-cluster-controller") if v not in ("get", "list", "watch")}

    assert {(r, v) for r, v in writes if "pods" in r} == {("/pods", "patch"), ("/pods/status", "patch")}
    assert ("sfc.dev/servicefunctionchains", "patch") not in writes


def test_cluster_controller_reads_its_own_secrets_only(rendered: list[Json]) -> None:
    role = one(rendered, "Role", "sfc-cluster-controller")
    cluster_wide = one(rendered, "ClusterRole", "sfc-cluster-controller")
    expected = {names.STATEMENT_KEY_SECRET}
    rights = {(r, v): n for r, v, n in granted(rendered, "sfc-cluster-controller")}

    assert set(rights["/secrets", "get"].split(",")) == expected
    assert rights["coordination.k8s.io/leases", "update"] == lease.NAME
    assert role["metadata"]["namespace"] == names.SYSTEM_NAMESPACE
    assert not any("secrets" in rule["resources"] for rule in cluster_wide["rules"])


def test_no_wildcard_is_granted(rendered: list[Json]) -> None:
    roles = [o for o in rendered if o["kind"] in ("Role", "ClusterRole")]

    fields = ("resources", "verbs", "nonResourceURLs")
    assert all("*" not in rule.get(field, ()) for role in roles for rule in role["rules"] for field in fields)


def test_field_manager_is_the_component(rendered: list[Json]) -> None:
    assert one(rendered, "Deployment", plan.MANAGER)


@pytest.mark.parametrize("dockerfile", ["webhook.Dockerfile", "cluster-controller.Dockerfile", "controller.Dockerfile"])
def test_code_changes_do_not_reinstall_packages(dockerfile: str) -> None:
    steps = (DEPLOY / dockerfile).read_text().splitlines()
    code = min(i for i, step in enumerate(steps) if re.match(r"COPY (sfc|kube) ", step))
    installs = [i for i, step in enumerate(steps) if re.search(r"apt-get|pip install", step)]

    assert max(installs) < code
