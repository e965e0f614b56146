"""Command lines and configuration of the control plane, which runs inside node 1."""

import json
from pathlib import Path

from testbed.build import Binaries
from testbed.network import FIRST_SERVICE, SERVICES, Node
from testbed.pki import Identity

CONFIGURATION = "/etc/kubernetes"
ADMISSION_FILE = "admission.json"
WEBHOOKS_FILE = "webhooks.kubeconfig"
API_PORT = 6443
STORE = "http://127.0.0.1:2379"

SERVING_NAMES = (
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    "DNS:localhost",
    "IP:127.0.0.1",
    f"IP:{FIRST_SERVICE}",
)

CLIENTS = {
    "controller-manager": Identity("system:kube-controller-manager"),
    "scheduler": Identity("system:kube-scheduler"),
}
"""Identities by component. Kubernetes itself brings their rights."""


def server_identity(node: Node) -> Identity:
    """The API server's, with every name and address under which clients reach it."""
    return Identity("kube-apiserver", serves=(*SERVING_NAMES, f"IP:{node.address}"))


def etcd(binaries: Binaries) -> list[str | Path]:
    """etcd's command line: one member, reachable from its own node only."""
    return [
        binaries.etcd / "etcd",
        "--data-dir=/var/lib/etcd",
        f"--listen-client-urls={STORE}",
        f"--advertise-client-urls={STORE}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",  # a testbed is rebuilt, not recovered
        "--log-level=warn",
    ]


def api_server(binaries: Binaries, node: Node) -> list[str | Path]:
    """The API server's command line; `node` is the one that it runs on."""
    keys = CONFIGURATION
    return [
        binaries.kubernetes / "kube-apiserver",
        f"--etcd-servers={STORE}",
        f"--service-cluster-ip-range={SERVICES}",
        f"--secure-port={API_PORT}",
        f"--advertise-address={node.address}",
        f"--client-ca-file={keys}/ca.crt",
        f"--tls-cert-file={keys}/apiserver.crt",
        f"--tls-private-key-file={keys}/apiserver.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--admission-control-config-file={keys}/{ADMISSION_FILE}",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/service-accounts.pub",
        f"--service-account-signing-key-file={keys}/service-accounts.key",
        f"--kubelet-certificate-authority={keys}/ca.crt",
        f"--kubelet-client-certificate={keys}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={keys}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",  # there is no DNS that knows a node's name
        f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys}/front-proxy-client.crt",
        f"--proxy-client-key-file={keys}/front-proxy-client.key",
        "--profiling=false",
    ]


def admission(pod_security: str) -> str:
    """The API server's admission configuration, in JSON, with that level of pod security as default.

    It shows webhooks that WEBHOOKS_FILE names a client certificate.
    """
    level = dict.fromkeys(("enforce", "audit", "warn"), pod_security)
    configuration = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": level,
        "exemptions": {"namespaces": ["kube-system"]},
    }
    webhooks = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": f"{CONFIGURATION}/{WEBHOOKS_FILE}",
    }
    calling = ("MutatingAdmissionWebhook", "ValidatingAdmissionWebhook")
    return json.dumps(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AdmissionConfiguration",
            "plugins": [
                {"name": "PodSecurity", "configuration": configuration},
                *({"name": name, "configuration": webhooks} for name in calling),
            ],
        }
    )


def webhooks() -> str:
    """A kubeconfig in JSON: to our webhook, the API server shows the certificate that it has for aggregated servers."""
    files = {"client-certificate": "front-proxy-client.crt", "client-key": "front-proxy-client.key"}
    user = {field: f"{CONFIGURATION}/{file}" for field, file in files.items()}
    users = [{"name": "sfc-webhook.sfc-system.svc", "user": user}]
    return json.dumps({"apiVersion": "v1", "kind": "Config", "users": users})


def callers(authority: str) -> str:
    """Objects in JSON: what tells our webhook that API servers show a certificate of `authority` (PEM)."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sfc-system"}}
    names = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "sfc-webhook-callers", "namespace": "sfc-system"},
        "data": {"ca.crt": authority, "names": "front-proxy-client"},
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, names]})


def controller_manager(binaries: Binaries) -> list[str | Path]:
    """The controller manager's command line. It also signs certificate requests."""
    return [
        binaries.kubernetes / "kube-controller-manager",
        *_client("controller-manager"),
        f"--root-ca-file={CONFIGURATION}/ca.crt",
        f"--service-account-private-key-file={CONFIGURATION}/service-accounts.key",
        f"--cluster-signing-cert-file={CONFIGURATION}/ca.crt",
        f"--cluster-signing-key-file={CONFIGURATION}/ca.key",
        "--use-service-account-credentials",
    ]


def scheduler(binaries: Binaries) -> list[str | Path]:
    """The scheduler's command line."""
    return [binaries.kubernetes / "kube-scheduler", *_client("scheduler")]


def _client(name: str) -> list[str]:
    file = f"{CONFIGURATION}/{name}.kubeconfig"
    return [
        *(f"--{use}={file}" for use in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")),
        "--leader-elect=false",  # there is one of each; an election would only delay it
        "--bind-address=127.0.0.1",
        "--profiling=false",
    ]
