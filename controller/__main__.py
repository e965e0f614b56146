"""`python -m controller node` and `hooks` on every node, `python -m controller cluster` once a cluster."""

from __future__ import annotations

import importlib
import sys

from sfc import log

COMMANDS = {"node": "controller.node", "hooks": "controller.hook_relay", "cluster": "controller.cluster.main"}


def main(argv: list[str]) -> int:
    """A command's module is imported when it runs: the cluster controller needs neither BPF nor netlink."""
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m controller {{{','.join(COMMANDS)}}}", file=sys.stderr)
        return 2
    log.configure()
    result: int = importlib.import_module(COMMANDS[argv[0]]).run(argv[1:])
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
