"""`python -m benchmarks NAME` runs a benchmark; QUICK=1 in the environment makes it a look, not a measurement."""

from __future__ import annotations

import os
import signal
import sys

from benchmarks import (
    admission,
    cluster_controller,
    cni,
    efficiency,
    events,
    fleet,
    forwarding,
    nodes,
    pods,
    ports,
    program,
    reaction,
    redirection,
    scale,
    soak,
)

BENCHMARKS = {
    "program": program.main,
    "pods": pods.main,
    "forwarding": forwarding.main,
    "nodes": nodes.main,
    "reaction": reaction.main,
    "admission": admission.main,
    "ports": ports.main,
    "events": events.main,
    "soak": soak.main,
    "cni": cni.main,
    "cluster": cluster_controller.main,
    "efficiency": efficiency.main,
    "redirection": redirection.main,
    "scale": scale.main,
    "fleet": fleet.main,
}


_SELF = os.getpid()


def _stop(*_: object) -> None:
    """Exits normally, which cleans up. Processes that a library forked get the signal too, and must not clean up."""
    if os.getpid() != _SELF:
        os._exit(143)
    sys.exit(143)


def main() -> None:
    """Runs the benchmark that the command line names, as root."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in BENCHMARKS:
        sys.exit(f"no benchmark {name!r}: make bench NAME={' or NAME='.join(BENCHMARKS)}")
    if os.geteuid():
        sys.exit("benchmarks load BPF programs and make network namespaces: run them as root")
    signal.signal(signal.SIGTERM, _stop)
    BENCHMARKS[name]()


main()
