"""How the demo reads an agent's metrics: with a kubectl of the test, and a real server behind its port-forward."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import scrape
from kubectl import DemoError, Kubectl

from certs.secrets import METRICS_NAMES, METRICS_SECRET
from serving.access import Access
from serving.bounded import listen
from serving.certificate import Certificate
from serving.metrics import MetricsServer, Page
from sfc import names
from tests.unit.test_serving import GOOD, POOR, Reviews, certificate

FAKE = """\
#!{python}
import json, sys, time
words = " ".join(sys.argv[1:])
if "create token" in words:
    print({token!r})
elif "get" in words:
    print(json.dumps({secret}))
elif "port-forward" in words:
    print("Forwarding from 127.0.0.1:{port} -> 9811", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """Port, and the certificate of the authority."""
    authority = certificate(tmp_path / "tls", *METRICS_NAMES)
    access = Access(Reviews())  # type: ignore[arg-type]
    running = MetricsServer(
        listen("127.0.0.1", 0), Certificate(tmp_path / "tls"), access, Page(lambda: b"sfc_links 1\n")
    )
    running.start()
    yield running.server_address[1], authority
    running.close()


def kubectl(folder: Path, port: int, authority: bytes, token: str) -> Kubectl:
    secret = {"data": {"ca.crt": base64.b64encode(authority).decode()}}
    program = folder / "kubectl"
    program.write_text(FAKE.format(python=sys.executable, token=token, secret=json.dumps(secret), port=port))
    program.chmod(0o755)
    return Kubectl(str(program), None)


def test_metrics_are_read_by_a_port_forward_with_a_token(server: tuple[int, bytes], tmp_path: Path) -> None:
    agent = scrape.Agent(kubectl(tmp_path, *server, GOOD), "sfc-node-x")
    read = [agent.read(), agent.read()]
    agent.close()

    assert read == ["sfc_links 1\n"] * 2


def test_a_refusal_is_told_in_the_words_of_the_component(server: tuple[int, bytes], tmp_path: Path) -> None:
    agent = scrape.Agent(kubectl(tmp_path, *server, POOR), "sfc-node-x")
    with pytest.raises(DemoError, match=r"sfc-node-x: 403 .*sfc-metrics-reader"):
        agent.read()
    agent.close()


def test_the_demo_asks_for_what_the_components_serve() -> None:
    assert (scrape.NAMESPACE, scrape.PORT) == (names.SYSTEM_NAMESPACE, names.METRICS_PORT)
    assert (scrape.SECRET, (scrape.SERVER_NAME,)) == (METRICS_SECRET, METRICS_NAMES)
