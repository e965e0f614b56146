"""Connections of eight client addresses to one server, through replicas of an address translator behind one address.

The replicas have slices of source ports or not. They run the example's own translator, each in a namespace of its own,
around the real program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.node.kernel.datapath import Datapath
from sfc.source_ports import nth
from tests.netns.topology import Node, Replica

ROOT = Path(__file__).parents[2]
TRANSLATOR = ROOT / "deploy/examples/nf/nat"
CONNECTIONS = ROOT / "benchmarks/connections.py"
CLIENTS = [f"10.1.0.{number}" for number in range(11, 19)]
SERVER = "198.51.100.2"
REPLICAS = 4
SECONDS = 150
"""After so many seconds a run fails."""

CHAIN: dict[str, Any] = {
    "metadata": {"name": "shared", "namespace": "telco", "uid": "shared-address"},
    "spec": {
        "stages": [
            {
                "name": "client",
                "interfaces": [
                    {
                        "name": "lan",
                        "addresses": [f"{address}/24" for address in CLIENTS],
                        "routes": [{"dst": "198.51.100.0/24", "gw": "10.1.0.1"}],
                    }
                ],
            },
            {
                "name": "nat",
                "interfaces": [
                    {"name": "inside", "addresses": ["10.1.0.1/24"]},
                    {"name": "outside", "addresses": ["198.51.100.1/24"]},
                ],
            },
            {"name": "server", "interfaces": [{"name": "wan", "addresses": [f"{SERVER}/24"]}]},
        ]
    },
}


@dataclass(frozen=True, slots=True)
class Lab:
    node: Node
    client: Replica
    translators: tuple[Replica, ...]

    def connect(self, connections: int, at_a_time: int) -> dict[str, Any]:
        """Opens the connections; the account that benchmarks/connections.py prints."""
        command = [*_python(self.client), "open", SERVER, "--from", *CLIENTS]
        command += ["--connections", str(connections), "--at-a-time", str(at_a_time)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        account: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return account


@contextmanager
def shared_address(label: str, datapath: Datapath, slices: int | None) -> Iterator[Lab]:
    """`slices` is the number of slices of source ports. With None the translators use any port."""
    with ExitStack() as cleanup:
        node = Node(label, CHAIN, datapath)
        cleanup.callback(node.close)
        client, server = node.add("client"), node.add("server")
        translators = tuple(node.add("nat") for _ in range(REPLICAS))
        _start(cleanup, [*_python(server), "serve"], "ready")
        for index, replica in enumerate(translators):
            replica.run("sysctl", "-qw", "net.ipv4.ip_forward=1")  # as the pod's init container does
            ports = str(nth(index, slices)) if slices else ""
            _start(cleanup, [*_inside(replica), "env", f"SOURCE_PORTS={ports}", str(TRANSLATOR)], "ready")
        node.serve(client, server, *translators)
        yield Lab(node, client, translators)


def _python(replica: Replica) -> list[str]:
    return [*_inside(replica), sys.executable, str(CONNECTIONS)]


def _inside(replica: Replica) -> list[str]:
    return ["ip", "netns", "exec", replica.namespace]


def _start(cleanup: ExitStack, command: list[str], word: str) -> None:
    """Runs a program until the end of the lab; returns when it has printed the word."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    cleanup.callback(process.stdout.close)  # after its end: with a closed pipe, its last output would kill it
    cleanup.callback(process.wait, 10)
    cleanup.callback(process.terminate)
    line = next((line for line in process.stdout if word in line), "")
    assert line, f"{command} ended without saying {word!r}"
