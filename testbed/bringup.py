"""The order in which a cluster starts. Steps that do not depend on each other run at the same time."""

import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from testbed import api, control_plane, images, keys, kubelet, nodes
from testbed.build import Binaries
from testbed.control_plane import API_PORT
from testbed.network import FIRST_SERVICE, Node
from testbed.paths import KUBECONFIG, LOG, MANIFESTS, PKI, RUN
from testbed.process import Daemon, run, spawn, wait_for
from testbed.progress import say

RELAY = Path(__file__).with_name("relay.py")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "relay")
NODE_DAEMONS = ("containerd", "kubelet", "kube-proxy")

LAG_PORT = 16443
"""Of the relay between a node's agent and the API server, on the node's 127.0.0.1."""
LAG_IS_SET = ("nft", "list", "table", "ip", "testbed_lag")
LAG_RULES = f"""
table ip testbed_lag {{
  chain output {{
    type nat hook output priority -110
    ip daddr {FIRST_SERVICE} tcp dport 443 redirect to :{LAG_PORT}
  }}
}}
"""
"""Before kube-proxy's: connections to the service `kubernetes` from the node's own network. The agent makes such; the
node's own daemons ask the API server by its address."""


def start(members: Sequence[Node], binaries: Binaries) -> None:
    """Starts a cluster where none runs; returns when all nodes are Ready.

    Raises TestbedError when a daemon ends early or is not ready in time.
    """
    for folder in (LOG, RUN, PKI, *map(nodes.folder, members)):
        folder.mkdir()
    PKI.chmod(0o700)
    with ThreadPoolExecutor(max_workers=8 + 2 * len(members)) as pool:
        first, *_ = members
        for node in members:
            nodes.make_folders(node)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            keys_made = pool.submit(keys.make, members, f"https://127.0.0.1:{listener.getsockname()[1]}", pool)
            holders = _start_namespaces(members, binaries, pool)
            _start_relay(listener, holders[first], first)
        keys_made.result()
        runtimes = {node: pool.submit(_start_containerd, node, holder, binaries) for node, holder in holders.items()}
        _start_control_plane(holders[first], first, binaries)
        applied = pool.submit(_apply_manifests, binaries)
        joined = [pool.submit(_join, node, holders[node], binaries, runtimes[node]) for node in members]
        for future in (applied, *joined):
            future.result()


def restart(holders: Mapping[Node, Daemon], fabric: Daemon, binaries: Binaries, pod_security: str) -> None:
    """As after a power cut: ends every process of every node, then starts all daemons from what is on disk.

    Returns when all nodes are Ready. `pod_security` is the cluster's default level.
    """
    first, *_ = holders
    with ThreadPoolExecutor(max_workers=2 * len(holders)) as pool:
        list(pool.map(nodes.cut_power, holders.values()))
        say("every process of every node ended")
        nodes.connect(holders, fabric)
        runtimes = {node: pool.submit(_start_containerd, node, holder, binaries) for node, holder in holders.items()}
        _start_control_plane(holders[first], first, binaries, pod_security)
        joined = [pool.submit(_join, node, holder, binaries, runtimes[node]) for node, holder in holders.items()]
        for future in joined:
            future.result()


def power_on(node: Node, holders: Mapping[Node, Daemon], fabric: Daemon, binaries: Binaries) -> None:
    """Starts a node whose power was cut with what is on its disk.

    Returns when its daemons run and the API server calls it Ready, which it may not have stopped to do.
    """
    nodes.connect_one(node, holders[node], holders, fabric)
    with ThreadPoolExecutor(max_workers=1) as pool:
        runtime = pool.submit(_start_containerd, node, holders[node], binaries)
        _join(node, holders[node], binaries, runtime)


def lag(node: Node, holder: Daemon, first: Node, seconds: float, relay: Daemon | None) -> None:
    """From now on, what the API server tells the agent of that node unasked comes so many seconds late.

    `relay`: the process between the two, if there is one yet. Otherwise the agent's connections are broken once, so
    that all its later ones go through a new one.
    """
    behind = nodes.folder(node) / "lag"
    part = behind.with_suffix(".new")
    part.write_text(str(seconds))
    part.rename(behind)
    if relay is None:
        arguments = [str(LAG_PORT), f"/proc/{holder.pid}/ns/net", first.address, str(API_PORT), str(behind)]
        relay = spawn(f"lag-{node.name}", ["/usr/bin/python3", str(RELAY), *arguments])
        listens = _succeeds(nodes.inside(holder, "sh", "-c", f"ss -Hltn sport = :{LAG_PORT} | grep -q ."))
        wait_for(f"the relay before {node.name}'s agent listens", listens, seconds=10, daemon=relay)
    if subprocess.run(nodes.inside(holder, *LAG_IS_SET), capture_output=True, check=False).returncode:
        run(*nodes.inside(holder, "nft", "--file", "-"), stdin=LAG_RULES)
        run(*nodes.inside(holder, "ss", "-K", "dst", FIRST_SERVICE, "dport", "=", ":443"))


def stop_api_server(holder: Daemon) -> None:
    """Kills the API server of the node that `holder` stands for."""
    run(*nodes.inside(holder, "sh", "-c", "kill -KILL $(pidof kube-apiserver)"))


def _start_namespaces(members: Sequence[Node], binaries: Binaries, pool: Executor) -> dict[Node, Daemon]:
    fabric = pool.submit(nodes.start_fabric)
    starting = {node: pool.submit(nodes.start_holder, node, binaries) for node in members}
    holders = {node: future.result() for node, future in starting.items()}
    nodes.connect(holders, fabric.result())
    return holders


def _start_relay(listener: socket.socket, holder: Daemon, first: Node) -> None:
    socket_number = listener.fileno()
    arguments = [str(socket_number), f"/proc/{holder.pid}/ns/net", first.address, str(API_PORT)]
    spawn("relay", ["/usr/bin/python3", str(RELAY), *arguments], pass_fds=[socket_number])


def _start_control_plane(holder: Daemon, first: Node, binaries: Binaries, pod_security: str = "privileged") -> None:
    """`pod_security` is the level for namespaces whose labels name none; Kubernetes' own default is privileged."""
    nodes.write(first, control_plane.ADMISSION_FILE, control_plane.admission(pod_security))
    nodes.write(first, control_plane.WEBHOOKS_FILE, control_plane.webhooks())
    nodes.start(holder, "etcd", control_plane.etcd(binaries))
    start_api_server(holder, first, binaries)
    nodes.start(holder, "kube-controller-manager", control_plane.controller_manager(binaries))
    nodes.start(holder, "kube-scheduler", control_plane.scheduler(binaries))


def start_api_server(holder: Daemon, first: Node, binaries: Binaries) -> None:
    """Returns when the API server is ready; TestbedError when it is not after 90 seconds."""
    server = nodes.start(holder, "kube-apiserver", control_plane.api_server(binaries, first))
    wait_for("the API server is ready", api.ready, seconds=90, daemon=server)
    say("API server ready")


def _apply_manifests(binaries: Binaries) -> None:
    apply: list[str | Path] = [binaries.kubectl, f"--kubeconfig={KUBECONFIG}", "apply", "--server-side"]
    run(*apply, f"--filename={MANIFESTS}")
    run(*apply, "--filename=-", stdin=control_plane.callers((PKI / "front-proxy-ca.crt").read_text()))


def _start_containerd(node: Node, holder: Daemon, binaries: Binaries) -> None:
    nodes.write_configuration(node, binaries)
    daemon = nodes.start(holder, f"containerd-{node.name}", kubelet.containerd())
    answers = _succeeds(nodes.inside(holder, "ctr", "version"))
    wait_for(f"containerd of {node.name} answers", answers, seconds=30, daemon=daemon)
    images.load([images.pause()], [holder])


def _join(node: Node, holder: Daemon, binaries: Binaries, runtime: "Future[None]") -> None:
    runtime.result()
    daemon = nodes.start(holder, f"kubelet-{node.name}", kubelet.kubelet(binaries, node))
    wait_for(f"{node.name} is registered", lambda: api.node(node.name) is not None, seconds=60, daemon=daemon)
    # kube-proxy exits when the node's address appears only after its first look, so the node must be there before.
    nodes.start(holder, f"kube-proxy-{node.name}", kubelet.kube_proxy(binaries))
    wait_for(f"{node.name} is Ready", lambda: api.node_ready(node.name), seconds=90, daemon=daemon)
    say(f"{node.name} Ready")


def _succeeds(command: list[str]) -> Callable[[], bool]:
    return lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0
