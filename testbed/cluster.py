"""Brings the cluster up and down, and reports its state.

`up` never repairs. It ends a cluster that is not exactly as wanted, or not entirely healthy, and makes a new one. That
takes seconds, and has the same result whatever a killed run left.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed import api, bringup, build, cgroups, nodes, process
from testbed.build import Binaries
from testbed.errors import TestbedError
from testbed.network import MOST_NODES, Node
from testbed.paths import CHECKOUT, CLUSTER, KUBECONFIG, LOG, OWNER, OWNER_FILE, PUBLISHED, STATE, STATES
from testbed.process import Daemon, run
from testbed.progress import say


@dataclass(frozen=True, slots=True)
class Cluster:
    """What `up` was asked for. `kubernetes` is the name of the binaries' folder, which contains the pins' hash."""

    kubernetes: str
    nodes: int

    @property
    def members(self) -> list[Node]:
        """Its nodes, by number."""
        return [Node(number) for number in range(1, self.nodes + 1)]


@contextmanager
def alone() -> Iterator[None]:
    """Holds the lock that allows one `up` or `down` at a time on this machine; waits for it.

    The lock is on the folder above the state folder, which always exists. A lock file could never be removed, because
    another process may be waiting for it.
    """
    folder = os.open(STATE.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another run of the testbed to finish")
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(folder)


def up(kubernetes: str, count: int | None) -> None:
    """Brings up a cluster of that Kubernetes version, unless exactly that one runs and is healthy.

    `count` is the number of nodes; None stands for as many as run already, or one. TestbedError when it is out of
    range, or the cluster does not start.
    """
    if count is not None and not 1 <= count <= MOST_NODES:
        raise TestbedError(f"--nodes: {count} is not between 1 and {MOST_NODES}")
    binaries = build.binaries(kubernetes)
    with alone():
        running = current()
        wanted = Cluster(binaries.kubernetes.name, count or (running.nodes if running else 1))
        complaint = "none is running" if running is None else _difference(running, wanted) or unhealthy(running)
        if complaint is None:
            say(f"the cluster is up: {wanted.nodes} node(s)")
        else:
            say(f"bringing up {wanted.kubernetes} with {wanted.nodes} node(s): {complaint}")
            _clear()
            _claim()
            bringup.start(wanted.members, binaries)
            CLUSTER.write_text(json.dumps(asdict(wanted)))
        _claim()  # another checkout may have brought it up
        _publish(binaries)


def restart(kubernetes: str, pod_security: str) -> None:
    """As after a power cut: everything ends at once, and starts again from what is on the nodes' disks.

    TestbedError when no cluster of that Kubernetes version runs.
    """
    binaries = build.binaries(kubernetes)
    with alone():
        running = current()
        if running is None or running.kubernetes != binaries.kubernetes.name:
            raise TestbedError(f"no cluster of {binaries.kubernetes.name} runs: start one with `python -m testbed up`")
        found = running_holders()
        members = {node: found[node.name] for node in running.members}
        bringup.restart(members, _fabric(running), binaries, pod_security)


def cut_power(name: str) -> None:
    """Cuts one node's power: it is off the network, and all its processes end at once. TestbedError for node 1, or
    without such a node."""
    node, _ = _other_node(name)
    nodes.cut_power(running_holder(node.name))


def power_on(kubernetes: str, name: str) -> None:
    """Starts such a node again with what is on its disk. TestbedError when its daemons do not run then."""
    node, running = _other_node(name)
    found = running_holders()
    if daemons(running)[f"kubelet-{name}"].alive():
        raise TestbedError(f"{name} has power: cut it with `python -m testbed power off {name}`")
    holders = {member: found[member.name] for member in running.members}
    bringup.power_on(node, holders, _fabric(running), build.binaries(kubernetes))


def plug(name: str, plugged: bool) -> None:
    """Plugs the cable between a node and the others in, or out. TestbedError without such a node."""
    running_holder(name)
    nodes.plug(_named(name), _fabric(_running()), plugged)


def lag(name: str, seconds: float) -> None:
    """From now on, what the API server tells that node's agent unasked comes so many seconds late; 0 undoes it.

    TestbedError without such a node, or for a negative time.
    """
    if seconds < 0:
        raise TestbedError(f"lag: {seconds} seconds are negative")
    holder, relay = running_holder(name), process.recorded().get(f"lag-{name}")
    bringup.lag(_named(name), holder, Node(1), seconds, relay if relay and relay.alive() else None)


def _named(name: str) -> Node:
    return next(node for node in _running().members if node.name == name)


def _other_node(name: str) -> tuple[Node, Cluster]:
    running_holder(name)
    if name == "node1":
        raise TestbedError("node1 runs the API server: `python -m testbed restart` cuts the power of all nodes")
    return _named(name), _running()


def _fabric(running: Cluster) -> Daemon:
    return daemons(running)["fabric"]


def stop_api_server() -> None:
    """Kills the API server alone: its port is closed until `start_api_server`. Everything else keeps running."""
    bringup.stop_api_server(running_holder("node1"))


def start_api_server(kubernetes: str) -> None:
    """Starts the API server again with what etcd holds; returns when it is ready."""
    bringup.start_api_server(running_holder("node1"), Node(1), build.binaries(kubernetes))


def down() -> None:
    """Ends the cluster and removes all that belongs to it; does nothing without one."""
    with alone():
        _clear()
    for link in _links():
        (CHECKOUT / link).unlink(missing_ok=True)
    say("the cluster is down")


def of_this_checkout() -> list[str]:
    """The names of the testbeds that this checkout has up, those included whose `up` or `down` was interrupted."""
    owned = {owner.parent.name: owner.read_text() for owner in STATES.glob(f"*/{OWNER_FILE}")}
    published = [link.readlink().parent for link in (CHECKOUT / "build").glob("**/kubeconfig") if link.is_symlink()]
    # Those without an owner are of a version that wrote none.
    before = {folder.name for folder in published if folder.parent == STATES and folder.is_dir()} - owned.keys()
    return sorted(before | {name for name, checkout in owned.items() if checkout == str(CHECKOUT)})


def current() -> Cluster | None:
    """The cluster whose `up` has finished, or None. It need not be healthy any more."""
    return Cluster(**json.loads(CLUSTER.read_text())) if CLUSTER.exists() else None


def _difference(running: Cluster, wanted: Cluster) -> str | None:
    if running == wanted:
        return None
    return f"the one that runs is {running.kubernetes} with {running.nodes} node(s), so it is replaced"


def daemons(cluster: Cluster) -> dict[str, Daemon]:
    """Every daemon that must be alive, by name. One that was never recorded has process id 0, which no process has."""
    names = ["fabric", *bringup.CONTROL_PLANE]
    for node in cluster.members:
        names += [node.name, *(f"{daemon}-{node.name}" for daemon in bringup.NODE_DAEMONS)]
    found = process.recorded()
    return {name: found.get(name, Daemon(name, 0)) for name in names}


def running_holders() -> dict[str, Daemon]:
    """The process that holds each node's namespaces, by the node's name. TestbedError when no cluster runs."""
    running = _running()
    found = daemons(running)
    return {node.name: found[node.name] for node in running.members}


def _running() -> Cluster:
    running = current()
    if running is None:
        raise TestbedError("no cluster runs: start one with `python -m testbed up`")
    return running


def running_holder(node: str) -> Daemon:
    """The process that holds that node's namespaces. TestbedError when there is no such node."""
    holders = running_holders()
    if node not in holders:
        raise TestbedError(f"there is no node {node!r}; there are: {', '.join(holders)}")
    return holders[node]


def unhealthy(cluster: Cluster) -> str | None:
    """What is wrong with a cluster that should run, or None when all is well."""
    dead = [name for name, daemon in daemons(cluster).items() if not daemon.alive()]
    if dead:
        return f"{', '.join(dead)} ended; see {LOG}"
    if not api.ready():
        return f"the API server does not answer; see {LOG}/kube-apiserver.log"
    if waiting := [node.name for node in cluster.members if not api.node_ready(node.name)]:
        return f"{', '.join(waiting)} not Ready; see {LOG}"
    return None


def _clear() -> None:
    """Ends and removes everything that exists. Mounts, links and pins vanish with the last process."""
    if STATE.exists() or cgroups.processes():
        say("ending what runs")
    CLUSTER.unlink(missing_ok=True)
    cgroups.kill_everything()
    _unmount_below(STATE)
    if STATE.exists():
        for left in sorted(STATE.iterdir(), key=lambda path: path == OWNER):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        STATE.rmdir()


def _claim() -> None:
    STATE.mkdir(exist_ok=True)
    OWNER.write_text(str(CHECKOUT))


def _unmount_below(folder: Path) -> None:
    """Unmounts what others may have mounted below the folder: removing the folder must not remove their files.

    The testbed itself mounts nothing outside its own namespaces.
    """
    targets = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for target in sorted((target for target in targets if target.startswith(f"{folder}/")), reverse=True):
        run("umount", target)


def _links() -> tuple[Path, Path]:
    return PUBLISHED / "kubeconfig", PUBLISHED / "bin" / "kubectl"


def _publish(binaries: Binaries) -> None:
    """Puts kubeconfig and kubectl where users of this checkout find them."""
    for link, target in zip(_links(), (KUBECONFIG, binaries.kubectl), strict=True):
        place = CHECKOUT / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)
    kubeconfig, kubectl = _links()
    say(f"export KUBECONFIG={CHECKOUT / kubeconfig}    (or: {kubectl} --kubeconfig {kubeconfig} get nodes)")


def status() -> bool:
    """Prints what runs; returns whether all is well."""
    running = current()
    if running is None:
        left = cgroups.processes()
        print(f"no cluster runs, but an unfinished `up` left {len(left)} processes" if left else "no cluster runs")
        return False
    print(f"{running.kubernetes}, {running.nodes} node(s), kubeconfig {KUBECONFIG}, logs {LOG}")
    for name, daemon in daemons(running).items():
        print(f"  {name:28}", f"process {daemon.pid}" if daemon.alive() else f"ENDED, see {daemon.log}")
    complaint = unhealthy(running)
    print(f"unhealthy: {complaint}" if complaint else "healthy: API server ready, all nodes Ready")
    return complaint is None
