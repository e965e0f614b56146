"""Reads an agent's metrics as Prometheus does: over TLS, with a token. A port-forward stands in for the pod network."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import subprocess

from kubectl import DemoError, Kubectl

PORT = 9811
NAMESPACE, SECRET, SERVER_NAME = "sfc-system", "sfc-metrics-tls", "sfc-metrics.sfc-system.svc"
READER = ("telco", "metrics-reader")
"""Namespace and name of the ServiceAccount that may read metrics (metrics-reader.yaml)."""
ANSWER_SECONDS = 10.0


class Agent:
    """One agent's metrics, from construction until `close`."""

    def __init__(self, kubectl: Kubectl, pod: str) -> None:
        """Raises DemoError."""
        namespace, account = READER
        self._token = kubectl.ask("--namespace", namespace, "create", "token", account, "--duration=1h").split()[0]
        self._trust = _trust(kubectl)
        self._pod = pod
        self._forward = kubectl.start("--namespace", NAMESPACE, "port-forward", f"pod/{pod}", f":{PORT}")
        self._port = _port(self._forward)

    def read(self) -> str:
        """In the text format of Prometheus. Raises DemoError."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), ANSWER_SECONDS) as plain:
                connection = http.client.HTTPConnection("agent")
                connection.sock = self._trust.wrap_socket(plain, server_hostname=SERVER_NAME)
                connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {self._token}"})
                answer = connection.getresponse()
                text = answer.read().decode()
        except OSError as error:
            raise DemoError(f"metrics of {self._pod}: {error}") from error
        if answer.status != http.HTTPStatus.OK:
            raise DemoError(f"metrics of {self._pod}: {answer.status} {text.strip()}")
        return text

    def close(self) -> None:
        """Ends the port-forward."""
        self._forward.kill()
        self._forward.wait()


def _trust(kubectl: Kubectl) -> ssl.SSLContext:
    found = kubectl.get("--namespace", NAMESPACE, "secret", SECRET)["data"]
    return ssl.create_default_context(cadata=base64.b64decode(found["ca.crt"]).decode())


def _port(forward: subprocess.Popen[str]) -> int:
    """The local port, which kubectl prints once it listens."""
    assert forward.stdout  # noqa: S101 - a pipe
    if found := re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline()):
        return int(found[1])
    raise DemoError(f"kubectl port-forward: {forward.communicate()[1].strip()}")
