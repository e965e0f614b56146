"""A node for one test: a network namespace that the test enters, pods' namespaces, and the agent's CNI side."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bcc import BPF
from pyroute2 import netns

from controller.node.cni.server import CniServer
from controller.node.cni.wiring import Folders, PodWiring
from controller.node.kernel.links import Links
from sfc.statement import SIGNATURE
from tests.statements import accepted, signed

ROOT = Path(__file__).parents[2]
PROGRAM_NAME = "sfc_test"
DRAIN_ID = "0123456789abcdef0123456789abcdef"
POD_UID = "5e0f5c44-3a1e-4a53-9a35-1c3d1a0b7e30"
MAC = "02:5f:c0:00:00:01"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfc-testbed"
CNI_PATH = ":".join([*map(str, CACHE.glob("cni-*[0-9a-f]/")), "/usr/lib/cni"])
IPAM = next(Path(folder) for folder in CNI_PATH.split(":") if Path(folder, "static").is_file())
"""The folder that the agent takes the IPAM plugin from."""
"""Folders with the IPAM plugin `static`: built by the testbed, or Debian's."""


@cache
def program(action: int = -1) -> int:
    """A descriptor of a loaded tc program that returns `action`; -1, the default, acts as if there were no filter."""
    bpf = BPF(text=f"int {PROGRAM_NAME}(struct __sk_buff *skb) {{ return {action}; }}".encode())
    return os.dup(bpf.load_func(PROGRAM_NAME.encode(), BPF.SCHED_CLS).fd)


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


@contextmanager
def namespace(label: str) -> Iterator[str]:
    """Makes a network namespace, and removes it at the end; yields its name."""
    name = f"sfcc-{os.getpid()}-{label}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Moves the calling thread into the namespace, with the threads and processes that it starts meanwhile."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    netns.setns(name, flags=0)
    try:
        yield
    finally:
        netns.setns(before)
        os.close(before)


def remove_leftovers(prefix: str) -> None:
    """Removes the namespaces of runs that were killed: named by the prefix and the id of a process that has ended."""
    for name in netns.listnetns():
        owner = re.match(rf"{prefix}(\d+)-", name)
        if owner and not Path("/proc", owner[1]).exists():
            netns.remove(name)


@contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor of the namespace."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def show(*query: str, pod: str | None = None) -> Any:
    """The output of `ip -json`, in the pod's namespace or, without a pod, in the caller's."""
    return json.loads(run("ip", *(("-n", pod) if pod else ()), "-json", "-details", *query) or "[]")


def held() -> set[object]:
    """Every descriptor that this process has open, with what it is open on, and every thread of it.

    What stands in a later answer and not in an earlier one was begun between the two and has not ended. Numbers would
    not tell: something that an earlier test began may end in between.
    """
    return {*descriptors(), *threading.enumerate()}


def descriptors() -> set[tuple[str, str]]:
    """Every descriptor that this process has open, with what it is open on."""
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError):  # the descriptor of this very listing
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115
    return found


def settles(condition: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether the condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def host_links() -> list[str]:
    return sorted(link["ifname"] for link in show("link") if link["ifname"].startswith("sfc"))


@dataclass
class Answer:
    status: int
    output: dict[str, Any]


@dataclass
class Node:
    """The agent's running CNI side, and the plugin that calls it."""

    plugin: Path
    socket: Path
    links: Links
    wiring: PodWiring
    changes: list[None] = field(default_factory=list)

    def call(
        self,
        command: str,
        pod: str | None,
        config: dict[str, Any] | str | None = None,
        *,
        container: str = "c0ffee",
        ifname: str = "net1",
        env: dict[str, str] | None = None,
    ) -> Answer:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": f"/run/netns/{pod}" if pod else "",
            "CNI_PATH": CNI_PATH,
            "CNI_ARGS": f"IgnoreUnknown=true;K8S_POD_NAMESPACE=telco;K8S_POD_NAME=nat-0;K8S_POD_UID={POD_UID}",
            **(env or {}),
        }
        config = configuration() if config is None else config
        return call_plugin(self.plugin, environment, config if isinstance(config, str) else _signed(config, ifname))


def _signed(config: dict[str, Any], interface: str) -> dict[str, Any]:
    """As it is, when it has a signature or is not one that the webhook could have asked for."""
    arguments = config.get("args", {}).get("cni", {})
    return config if not arguments or SIGNATURE in arguments else signed(config, "telco", interface)


def call_plugin(plugin: Path, environment: dict[str, str], config: dict[str, Any] | str) -> Answer:
    text = config if isinstance(config, str) else json.dumps(config)
    done = subprocess.run([plugin], env=environment, input=text, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return Answer(done.returncode, json.loads(done.stdout or "{}"))


def configuration(
    ips: list[str] | None = None,
    mac: str = MAC,
    routes: list[dict[str, str]] | None = None,
    mtu: int | None = None,
    source_ports: str | None = None,
) -> dict[str, Any]:
    """A configuration as the plugin gets it: Multus adds the webhook's annotation to it."""
    args = {"chain": "edge", "stage": "nat", "drainId": DRAIN_ID, "mtu": mtu, "routes": routes}
    args["sourcePorts"] = source_ports
    return {
        "cniVersion": "1.0.0",
        "name": "sfc",
        "type": "sfc",
        "capabilities": {"ips": True, "mac": True},
        "ipam": {"type": "static"},
        "runtimeConfig": {"mac": mac, **({"ips": ips} if ips else {})},
        "args": {"cni": {key: value for key, value in args.items() if value is not None}},
    }


def build_plugin(folder: Path, socket: Path, timeout_seconds: int = 10) -> Path:
    flags = f'-O2 -DSFC_SOCKET=\\"{socket}\\" -DSFC_TIMEOUT_SECONDS={timeout_seconds}'
    run("make", "-C", str(ROOT / "cni"), f"BUILD={folder}", f"CFLAGS={flags}")
    return folder / "sfc-cni"


@contextmanager
def agent(plugin: Path, socket: Path, ipam: Path = IPAM) -> Iterator[Node]:
    """Runs the agent's CNI side in the caller's namespace, with the IPAM plugin in the folder `ipam`. It accepts the
    statements of tests.statements."""
    links = Links()
    changes: list[None] = []
    folders = Folders(ipam, accepted(plugin.parent / "statement-keys"))
    wiring = PodWiring(links, program, PROGRAM_NAME, folders, lambda: changes.append(None))
    server = CniServer(socket, wiring)
    server.start()
    try:
        yield Node(plugin, socket, links, wiring, changes)
    finally:
        server.stop()
        links.close()
