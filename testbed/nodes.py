"""Starts nodes (their namespaces, files, links and daemons) and runs programs inside them."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from testbed import cgroups, kubelet, network
from testbed.build import Binaries
from testbed.errors import TestbedError
from testbed.network import Node
from testbed.paths import STATE
from testbed.process import Daemon, run, spawn
from testbed.progress import tail

HOLDER = Path(__file__).with_name("holder.py")
NAMESPACES = ("--mount", "--net", "--uts", "--ipc")

POWER_CUT = """
ip link delete eth0 2>/dev/null || :
kill -KILL -1
while [ "$(ls -d /proc/[0-9]* | wc -l)" -gt 4 ]; do sleep 0.1; done
mounts=$(awk '$2 ~ "^/(run/(netns|containerd)|var/lib/kubelet/pods)/" {print $2}' /proc/self/mounts | sort -r)
for mount in $mounts; do umount -l "$mount"; done
rm -rf /run/netns/* /run/containerd/* /run/sfc/* /sys/fs/bpf/sfc
nft flush ruleset
for device in /sys/class/net/*; do
  case ${device##*/} in lo) ;; *) ip link delete "${device##*/}" 2>/dev/null || : ;; esac
done
"""
"""Takes a node off the network, kills all its processes at once, and removes all that a power cut would erase. Files
on disk stay."""

FOLDERS = {
    "kubernetes": "/etc/kubernetes",
    "cni": "/etc/cni/net.d",
    "plugins": "/opt/cni/bin",
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "etcd": "/var/lib/etcd",
    "log": "/var/log",
}
"""By the name of a folder in the node's state folder, where the node sees it."""


def folder(node: Node) -> Path:
    """The node's own, in the state folder."""
    return STATE / node.name


def make_folders(node: Node) -> None:
    """Makes the folders that the node will see, and the one for the records of its images."""
    for name in (*FOLDERS, "images"):
        (folder(node) / name).mkdir()


def inside(holder: Daemon, *command: str | Path) -> list[str]:
    """The command line that runs `command` in all namespaces of a node."""
    processes = f"--pid=/proc/{holder.pid}/ns/pid_for_children"
    return ["nsenter", f"--target={holder.pid}", *NAMESPACES, processes, "--", *map(str, command)]


def start_fabric() -> Daemon:
    """The bridge that joins the nodes, in a network namespace that lives as long as this process."""
    made = "ip link add fabric type bridge && ip link set fabric up"
    script = f'{made} && echo ready >"/proc/self/fd/$0" && exec sleep infinity'
    return _start_and_wait("fabric", ["unshare", "--net", "sh", "-c", script])


def start_holder(node: Node, binaries: Binaries) -> Daemon:
    """Makes a node's namespaces with their file systems, and the process that holds them; no daemon yet."""
    files = folder(node)
    shared = [binaries.kubernetes, binaries.etcd]
    binds = {str(files / name): place for name, place in FOLDERS.items()} | {str(path): str(path) for path in shared}
    unshare = ["unshare", *NAMESPACES, "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return _start_and_wait(
        node.name, [*unshare, "/usr/bin/python3", HOLDER, node.name, files, STATE, json.dumps(binds)]
    )


def _start_and_wait(name: str, command: Sequence[str | Path]) -> Daemon:
    """Starts a process and waits until it is ready. It gets a pipe's number as last argument, and writes to it then."""
    reader, writer = os.pipe()
    daemon = spawn(name, [*command, str(writer)], pass_fds=[writer])
    os.close(writer)
    answer = os.read(reader, 1)
    os.close(reader)
    if not answer:
        raise TestbedError(f"{name} did not start. The end of {daemon.log}:\n{tail(daemon.log)}")
    return daemon


def connect(holders: Mapping[Node, Daemon], fabric: Daemon) -> None:
    """Joins the nodes by the bridge, with addresses and routes."""
    for node, holder in holders.items():
        connect_one(node, holder, holders, fabric)


def connect_one(node: Node, holder: Daemon, others: Iterable[Node], fabric: Daemon) -> None:
    """Joins one node with the bridge."""
    _ip(holder, network.links(node, others, fabric.pid))
    run("nsenter", f"--target={holder.pid}", "--net", "sysctl", "-qw", *network.SETTINGS)
    _ip(fabric, network.ports([node]))


def plug(node: Node, fabric: Daemon, plugged: bool) -> None:
    """Plugs the cable between the node and the bridge in, or out."""
    _ip(fabric, [network.cable(node, plugged)])


def _ip(place: Daemon, commands: Sequence[str]) -> None:
    run("nsenter", f"--target={place.pid}", "--net", "ip", "-batch", "-", stdin="\n".join(commands) + "\n")


def write(node: Node, name: str, content: str) -> None:
    """Writes a file into the node's /etc/kubernetes."""
    (folder(node) / "kubernetes" / name).write_text(content)


def write_configuration(node: Node, binaries: Binaries) -> None:
    """Writes all that the node's daemons read, except keys: configuration files and CNI plugins."""
    files = folder(node)
    cgroup_root = cgroups.node_root(node.name)
    written = {
        "kubernetes/containerd.toml": kubelet.CONTAINERD,
        "kubernetes/kubelet.json": kubelet.kubelet_configuration(cgroup_root),
        "kubernetes/kube-proxy.json": kubelet.proxy_configuration(node),
        "cni/00-multus.conf": kubelet.cni_configuration(node),
    }
    for name, content in written.items():
        (files / name).write_text(content)
    shutil.copytree(binaries.cni, files / "plugins", dirs_exist_ok=True)


def cut_power(holder: Daemon) -> None:
    """Runs POWER_CUT in the node; the process that holds its namespaces stays. `connect` comes before it is used."""
    run(*inside(holder, "sh", "-euc", POWER_CUT))


def start(holder: Daemon, name: str, command: Sequence[str | Path]) -> Daemon:
    """Starts a daemon inside a node."""
    return spawn(name, inside(holder, *command))
