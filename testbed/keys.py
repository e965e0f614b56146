"""Which component gets which identity. Every node's folder holds the node's own keys, and no others."""

import shutil
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path

from testbed import control_plane, kubelet, pki
from testbed.control_plane import API_PORT
from testbed.network import Node
from testbed.nodes import folder
from testbed.paths import KUBECONFIG, PKI
from testbed.pki import Authority, Identity

ADMINISTRATOR = Identity("admin", "system:masters")


def make(nodes: Iterable[Node], server: str, pool: Executor) -> None:
    """Writes all keys, certificates and kubeconfigs. `server` is the API server's URL for users on this machine."""
    authority, front_proxy = pool.map(lambda name: pki.authority(PKI, name), ("ca", "front-proxy-ca"))
    first, *others = nodes
    tasks = [
        pool.submit(_administrator, authority, server),
        pool.submit(_control_plane, authority, front_proxy, first),
        *(pool.submit(_node, authority, node, first) for node in (first, *others)),
    ]
    for task in tasks:
        task.result()


def _administrator(authority: Authority, server: str) -> None:
    pki.certificate(authority, PKI, "admin", ADMINISTRATOR)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text(pki.kubeconfig(authority, PKI, "admin", server))


def _control_plane(authority: Authority, front_proxy: Authority, node: Node) -> None:
    place = folder(node) / "kubernetes"
    pki.service_account_keys(place)
    shutil.copy(authority.key, place)  # the controller manager signs certificate requests with it
    shutil.copy(front_proxy.certificate, place)
    pki.certificate(authority, place, "apiserver", control_plane.server_identity(node))
    pki.certificate(authority, place, "apiserver-kubelet-client", Identity("apiserver-kubelet-client"))
    pki.certificate(front_proxy, place, "front-proxy-client", Identity("front-proxy-client"))
    for name, identity in control_plane.CLIENTS.items():
        _client(authority, place, name, identity, node)


def _node(authority: Authority, node: Node, first: Node) -> None:
    place = folder(node) / "kubernetes"
    shutil.copy(authority.certificate, place)
    _client(authority, place, "kubelet", kubelet.node_identity(node), first)
    _client(authority, place, "kube-proxy", kubelet.CLIENTS["kube-proxy"], first)
    _client(authority, folder(node) / "cni" / "multus.d", "multus", kubelet.CLIENTS["multus"], first)


def _client(authority: Authority, place: Path, name: str, identity: Identity, first: Node) -> None:
    place.mkdir(exist_ok=True)
    pki.certificate(authority, place, name, identity)
    kubeconfig = place / f"{name}.kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(pki.kubeconfig(authority, place, name, f"https://{first.address}:{API_PORT}"))
