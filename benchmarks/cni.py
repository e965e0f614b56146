"""How long CNI ADD and DEL of one interface take: our plugin and agent beside the reference plugin `ptp`.

Both delegate to the same IPAM plugin `static`. Each call is like a container runtime's: a process that gets its request
by environment and standard input. It runs in a namespace that stands for the node, and every pod has a new namespace,
made before the clock starts. The agent is a separate process, as on a node.

The parts of our time: the agent answers a STATUS call at once, so this is the cost of process, socket and thread. The
IPAM plugin alone is the time that the agent waits for it. The rest is netlink and the agent's own work.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import QUICK, Report, Spread, Target, machine, ratio
from tests.netns import node as lab
from tests.statements import signed

ROUNDS = 10 if QUICK else 60
START_SECONDS = 20.0
OURS, PEER, IPAM = "sfc + static", "ptp + static", "static alone"
ADD, DEL, PARTS = "ADD, ms", "DEL, ms", "parts of our ADD, ms"
TARGETS = {"ADD, sfc/ptp": Target(1.0, at_most=True), "DEL, sfc/ptp": Target(1.0, at_most=True)}
NOTES = (
    "A call is timed from the start of the plugin's process to its end. ptp sets an address and a route and turns "
    "forwarding on; ours sets the same address, MAC and link identity, and attaches the program.",
)
ADDRESS = "10.1.0.2/24"


def main() -> None:
    """ROUNDS pairs of ADD and DEL with each plugin, in turn."""
    described = machine()
    figures: dict[str, dict[str, list[float]]] = {unit: {} for unit in (ADD, DEL, PARTS)}
    with ExitStack() as cleanup:
        plugin = cleanup.enter_context(_node())
        for number in range(ROUNDS):
            ways = [
                (OURS, plugin, signed(lab.configuration([ADDRESS]), "cni", "net1")),
                (PEER, _installed("ptp"), _ptp()),
            ]
            for name, program, config in ways if number % 2 else ways[::-1]:
                for unit, value in _added_and_deleted(program, config, number):
                    figures[unit].setdefault(name, []).append(value)
            status, alone = _call(plugin, "STATUS", ways[0][2], None), _call(_installed("static"), "ADD", _ptp(), None)
            figures[PARTS].setdefault("process and socket (STATUS)", []).append(status)
            figures[PARTS].setdefault(IPAM, []).append(alone)
    ratios = {f"{unit[:3]}, sfc/ptp": _of_medians(figures[unit]) for unit in (ADD, DEL)}
    Report("cni", described, figures, ratios, TARGETS, NOTES).publish()


def _of_medians(rounds: Mapping[str, list[float]]) -> Spread:
    """The ratio of the medians, for which the target is set, with the quartiles of the rounds' ratios."""
    spread = ratio(rounds, OURS, PEER)
    return Spread(statistics.median(rounds[OURS]) / statistics.median(rounds[PEER]), spread.low, spread.high)


@contextmanager
def _node() -> Iterator[Path]:
    """Starts our agent in a new namespace, and moves the caller there, too; yields our plugin."""
    with tempfile.TemporaryDirectory() as folder, lab.namespace("node") as name, lab.inside(name):
        socket = Path(folder) / "run" / "cni.sock"
        plugin = lab.build_plugin(Path(folder), socket)
        agent = subprocess.Popen([sys.executable, "-m", "benchmarks.cni", str(socket)])
        try:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists():
                if agent.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the agent does not listen")
                time.sleep(0.05)
            yield plugin
        finally:
            agent.terminate()
            agent.wait()


def _added_and_deleted(plugin: Path, config: Mapping[str, Any], number: int) -> Iterator[tuple[str, float]]:
    with lab.namespace(f"pod{number}") as pod:
        yield ADD, _call(plugin, "ADD", config, pod)
        yield DEL, _call(plugin, "DEL", config, pod)


def _call(plugin: Path, command: str, config: Mapping[str, Any], pod: str | None) -> float:
    """The milliseconds that a call takes; RuntimeError when it fails."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c0ffee",
        "CNI_IFNAME": "net1",
        "CNI_NETNS": f"/run/netns/{pod}" if pod else "/none",
        "CNI_PATH": lab.CNI_PATH,
        "CNI_ARGS": f"IgnoreUnknown=true;K8S_POD_NAMESPACE=cni;K8S_POD_NAME=pod;K8S_POD_UID={lab.POD_UID}",
    }
    text = json.dumps(config)
    began = time.perf_counter()
    done = subprocess.run([plugin], env=environment, input=text, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{plugin.name} {command}: {done.stdout}{done.stderr}")
    return took * 1000


def _ptp() -> dict[str, Any]:
    addresses = [{"address": ADDRESS, "gateway": "10.1.0.1"}]
    return {"cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipam": {"type": "static", "addresses": addresses}}


def _installed(name: str) -> Path:
    found = (Path(folder, name) for folder in lab.CNI_PATH.split(":"))
    return next(path for path in found if path.is_file())


def _serve(socket: Path) -> None:
    logging.disable()
    sys.setswitchinterval(0.0005)  # controller.node.agent.SWITCH_SECONDS
    with lab.agent(socket.parent, socket):
        threading.Event().wait()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
