"""The few requests that `up` and `status` send to the API server, as the administrator."""

import json
import ssl
import urllib.request
from typing import Any

from testbed.paths import KUBECONFIG, PKI

TIMEOUT_SECONDS = 3.0


def ready() -> bool:
    """False as well when the API server does not answer within TIMEOUT_SECONDS."""
    return _text("/readyz") == "ok"


def node(name: str) -> Any:
    """The Node object, or None without one or without an answer."""
    text = _text(f"/api/v1/nodes/{name}")
    return json.loads(text) if text else None


def node_ready(name: str) -> bool:
    """Whether the node's condition Ready is True; False without a node or without an answer."""
    conditions = (node(name) or {}).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _text(path: str) -> str:
    server = json.loads(KUBECONFIG.read_text())["clusters"][0]["cluster"]["server"]
    context = ssl.create_default_context(cafile=PKI / "ca.crt")
    context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
    # An opener of its own, because the default one uses the proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(server + path, timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read(), "utf-8")
    except OSError:  # URLError and HTTPError too
        return ""
