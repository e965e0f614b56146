"""Reads the metrics of the components as Prometheus does: from a node, over TLS, with a token that may read them."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys

from benchmarks import cluster

PORT = 9811
ACCOUNT = ("default", "benchmarks-metrics")
"""Namespace and name of the account that reads them."""
SCRAPE = """
import http.client, json, socket, ssl, sys
host, port, token, authority = json.load(sys.stdin)
connection = http.client.HTTPSConnection(host, port, timeout=20)
plain = socket.create_connection((host, port), 20)
trust = ssl.create_default_context(cadata=authority)
connection.sock = trust.wrap_socket(plain, server_hostname="sfc-metrics.sfc-system.svc")
connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
answer = connection.getresponse()
text = answer.read().decode()
sys.exit(f"{answer.status}: {text}") if answer.status != 200 else print(text)
"""


def of(address: str) -> str:
    """The metrics of the pod with that address, in the text format. RuntimeError without an answer."""
    namespace, account = ACCOUNT
    if not cluster.try_kubectl(f"--namespace={namespace}", "get", "serviceaccount", account):
        cluster.kubectl(f"--namespace={namespace}", "create", "serviceaccount", account)
        role = ("--clusterrole=sfc-metrics-reader", f"--serviceaccount={namespace}:{account}")
        cluster.kubectl("create", "clusterrolebinding", account, *role)
    token = cluster.kubectl(f"--namespace={namespace}", "create", "token", account).strip()
    field = "--output=jsonpath={.data.ca\\.crt}"
    authority = cluster.kubectl("--namespace=sfc-system", "get", "secret", "sfc-metrics-tls", field)
    question = json.dumps([address, PORT, token, base64.b64decode(authority).decode()])
    command = [sys.executable, "-m", "testbed", "exec", "node1", "/usr/bin/python3", "-c", SCRAPE]
    done = subprocess.run(
        command, cwd=cluster.CHECKOUT, input=question, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"metrics of {address}: {done.stderr.strip()[-500:]}")
    return done.stdout


def total(text: str, name: str, **labels: str) -> int:
    """The sum of the samples of that name with these labels."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    samples = re.findall(rf"^{name}\{{([^}}]*)\}} (\S+)", text, re.MULTILINE)
    return sum(int(float(value)) for found, value in samples if wanted <= {*found.split(",")})
