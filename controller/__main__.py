"""`python -m controller node` and `hooks` on every node, `python -m controller cluster` once a cluster."""

from __future__ import annotations

import importlib
import signal
import sys

from sfc import log

COMMANDS = {
    "node": "controller.node.agent",
    "hooks": "controller.node.hooks.relay",
    "cluster": "controller.cluster.main",
}


def main(argv: list[str]) -> int:
    """A command's module is imported when it runs: the cluster controller needs neither BPF nor netlink.

    The first process of a container hears no signal that it does not handle: one that came during the imports, which
    take seconds on a busy machine, would be lost, and the kubelet would wait for the end of the grace period.
    """
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m controller {{{','.join(COMMANDS)}}}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    log.configure()
    result: int = importlib.import_module(COMMANDS[argv[0]]).run(argv[1:])
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
