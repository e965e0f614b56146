"""The few questions `up` and `status` ask the API server, as the administrator."""

import json
import ssl
import urllib.request
from typing import Any

from testbed.paths import KUBECONFIG, PKI

TIMEOUT_SECONDS = 3.0


def ready() -> bool:
    return _text("/readyz") == "ok"


def node(name: str) -> Any:
    """The node's object, or None when there is none or no answer."""
    text = _text(f"/api/v1/nodes/{name}")
    return json.loads(text) if text else None


def node_ready(name: str) -> bool:
    conditions = (node(name) or {}).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _text(path: str) -> str:
    server = json.loads(KUBECONFIG.read_text())["clusters"][0]["cluster"]["server"]
    context = ssl.create_default_context(cafile=PKI / "ca.crt")
    context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
    # An opener of its own: a proxy from the environment has no part in this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(server + path, timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read(), "utf-8")
    except OSError:  # URLError and HTTPError too
        return ""
