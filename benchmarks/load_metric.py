"""An external metric for a HorizontalPodAutoscaler.

It serves external.metrics.k8s.io/v1beta1 with one metric, `load`, whose value is in the file LOAD. It runs as a plain
script in a pod of its own (benchmarks/hpa.yaml): standard library only.
"""

import json
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GROUP = "external.metrics.k8s.io/v1beta1"
LOAD = Path("/tmp/load")  # noqa: S108 - in its own container
CERTIFICATE = Path("/tls/tls.crt")
KEY = Path("/tls/tls.key")
PORT = 6443


class Metric(BaseHTTPRequestHandler):
    """Answers with the metric's value, and otherwise with the list of metrics."""

    def do_GET(self) -> None:
        """One request."""
        if self.path.endswith("/load") or "/load?" in self.path:
            self._answer(_values(LOAD.read_text().strip()))
        else:
            self._answer(_resources())

    def _answer(self, obj: object) -> None:
        body = json.dumps(obj).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""


def _resources() -> object:
    resource = {"name": "load", "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList"}
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP,
        "resources": [{**resource, "verbs": ["get"]}],
    }


def _values(value: str) -> object:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    item = {"metricName": "load", "metricLabels": {}, "timestamp": now, "value": value}
    return {"kind": "ExternalMetricValueList", "apiVersion": GROUP, "metadata": {}, "items": [item]}


def main() -> None:
    """Serves over TLS, for ever, with the load 0 at first."""
    LOAD.write_text("0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    server = ThreadingHTTPServer(("", PORT), Metric)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
