"""`python -m controller node` and `hooks` on every node, `cluster` once a cluster, `install` in the install's Jobs."""

from __future__ import annotations

import importlib
import signal
import sys

from sfc import log

COMMANDS = {
    "node": "controller.node.agent",
    "hooks": "controller.node.hooks.relay",
    "cluster": "controller.cluster.main",
    "install": "controller.cluster.install",
}


def main(argv: list[str]) -> int:
    """Runs the command `argv[0]`; returns the exit status of the process.

    A command's module is imported when it runs: the cluster controller needs neither BPF nor netlink.

    Signals are handled before the import, which takes seconds on a busy machine. The kernel drops a signal that the
    first process of a container does not handle, and the kubelet would wait until the grace period ends.
    """
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m controller {{{','.join(COMMANDS)}}}", file=sys.stderr)
        return 2
    log.configure()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    result: int = importlib.import_module(COMMANDS[argv[0]]).run(argv[1:])
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
