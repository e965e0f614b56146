"""`python -m testbed COMMAND`: a cluster comes up and ends, gets images, and meets what clusters meet.

up, down, status, exec                     the cluster and its nodes
base-image, build-image, load-image        images
restart, api-server, power, link, lag      power cuts, a lost API server, cut cables, late watches
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from testbed import builder, cluster, images, nodes
from testbed.errors import TestbedError
from testbed.paths import CHECKOUT

DEFAULT_KUBERNETES = "1.37"


def parser() -> argparse.ArgumentParser:
    """The command line; the chosen function is in the `command` of what it parses."""
    top = argparse.ArgumentParser(prog="python -m testbed", description="A real Kubernetes on this machine.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, what: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(command=what)
        return made

    up = command("up", _up, "bring up the cluster, unless it runs as wanted (the variable KUBERNETES is its version)")
    up.add_argument("--nodes", type=int, help="how many (default: as many as run, or 1)")
    again = command("restart", _restart, "cut the power of all nodes, and start them again with what is on their disks")
    levels = ("privileged", "baseline", "restricted")
    again.add_argument("--pod-security", choices=levels, default=levels[0], help="the cluster's default level")
    server = command("api-server", _api_server, "kill the API server, or start it again with what etcd holds")
    server.add_argument("action", choices=("stop", "start"))
    power = command("power", _power, "cut the power of one node, or start it again with what is on its disk")
    power.add_argument("action", choices=("off", "on"))
    power.add_argument("node")
    link = command("link", _link, "unplug the cable between one node and the others, or plug it in again")
    link.add_argument("action", choices=("off", "on"))
    link.add_argument("node")
    behind = command("lag", _lag, "let the watches of one node's agent be late; 0: not any more")
    behind.add_argument("node")
    behind.add_argument("seconds", type=float)
    end = command("down", _down, "end the cluster and remove all that belongs to it")
    end.add_argument("--all", action="store_true", help="every cluster of this checkout, whatever its name")
    command("status", _status, "show what runs; fails unless all is well")
    load = command("load-image", _load_image, "put images into every node")
    load.add_argument("image", nargs="+", help="docker-archive file, or name of an image made by build-image")
    command("base-image", _base_image, "make the Debian base image that Dockerfiles here build on")
    build = command("build-image", _build_image, "build an image and put it into every node")
    build.add_argument("-t", dest="reference", required=True, help="its name, like localhost/sfc/controller:dev")
    build.add_argument("-f", dest="dockerfile", required=True, type=Path)
    build.add_argument("context", nargs="?", type=Path, default=Path())
    inside = command("exec", _exec, "run a program inside a node, in all its namespaces")
    inside.add_argument("node")
    inside.add_argument("argv", nargs=argparse.REMAINDER)
    return top


def _up(arguments: argparse.Namespace) -> int:
    cluster.up(os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES, arguments.nodes)
    return 0


def _restart(arguments: argparse.Namespace) -> int:
    cluster.restart(os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES, arguments.pod_security)
    return 0


def _api_server(arguments: argparse.Namespace) -> int:
    if arguments.action == "stop":
        cluster.stop_api_server()
    else:
        cluster.start_api_server(os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES)
    return 0


def _power(arguments: argparse.Namespace) -> int:
    if arguments.action == "off":
        cluster.cut_power(arguments.node)
    else:
        cluster.power_on(os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES, arguments.node)
    return 0


def _link(arguments: argparse.Namespace) -> int:
    cluster.plug(arguments.node, arguments.action == "on")
    return 0


def _lag(arguments: argparse.Namespace) -> int:
    cluster.lag(arguments.node, arguments.seconds)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    if not arguments.all:
        cluster.down()
        return 0
    command = [sys.executable, "-m", "testbed", "down"]
    ended = [
        subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "SFC_TESTBED": name}, check=False).returncode
        for name in cluster.of_this_checkout()
    ]
    return max(ended, default=0)


def _status(_: argparse.Namespace) -> int:
    return 0 if cluster.status() else 1


def _load_image(arguments: argparse.Namespace) -> int:
    images.load([builder.archive_named(image) for image in arguments.image], cluster.running_holders().values())
    return 0


def _base_image(_: argparse.Namespace) -> int:
    builder.base_image()
    return 0


def _build_image(arguments: argparse.Namespace) -> int:
    holders = cluster.running_holders().values()  # first: a missing cluster should not cost a build
    image = builder.build_image(arguments.reference, arguments.dockerfile, arguments.context.resolve())
    images.load([image], holders)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    holder = cluster.running_holder(arguments.node)
    command = nodes.inside(holder, *(arguments.argv or ["bash"]))
    os.execvp(command[0], command)  # noqa: S606 - the user's own command, without a shell between


def main() -> int:
    """The exit status: 0, or 1 with one line of explanation on standard error."""
    arguments = parser().parse_args()
    if os.geteuid() != 0:
        print("the testbed makes namespaces and mounts: run it as root", file=sys.stderr)
        return 1
    try:
        return int(arguments.command(arguments))
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
