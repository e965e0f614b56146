"""Everything that can happen to a chain on a real cluster, and to the agent, the webhook and the API server behind it.

Each event is a method. It returns when the event is over: the replicas asked for are Ready, and a killed process is
back. A replica that leaves may still drain then.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import cluster, metrics
from benchmarks.report import BUILD
from kube.api import STRATEGIC_MERGE_PATCH, ApiError, ApiServer

NAMESPACE = "events"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
FUNCTION = f"{DEPLOYMENTS}/function"
SYSTEM_PODS = "/api/v1/namespaces/sfc-system/pods"
AGENT = "/apis/apps/v1/namespaces/sfc-system/daemonsets/sfc-node"
WIRED = "sfc.dev/wired"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
IMAGE = "localhost/sfc/controller:dev"
NEXT_IMAGE = "localhost/sfc/controller:next"
MINUTES = 180.0

NEXT_LAYOUT = (
    ("bpf/session.h", "\n};\n\nenum standing {", "\n\tu64 more;\n};\n\nenum standing {"),
    ("bpf/cross_connect.c", "refused a session */\n};", "refused a session */\n\tu32 more;\n};"),
    ("controller/node/kernel/maps.py", '"<IIBBBxI"', '"<IIBBBxI4x"'),
    ("controller/node/kernel/maps.py", '"<1072s"', '"<1200s"'),
    ("controller/node/kernel/maps.py", '"<1456s"', '"<1584s"'),
    ("controller/node/kernel/session_table.py", '"<QQ8xQ4xBBBB"', '"<QQ8xQ4xBBBB8x"'),
)
"""(file, text, replacement): the next version has larger links and sessions."""

Pod = Mapping[str, Any]


class Chain:
    """The chain of benchmarks/events.yaml, and the components behind it."""

    def __init__(self) -> None:
        self._api = ApiServer.from_environment(str(cluster.KUBECONFIG))
        self.nodes = sorted(name(node) for node in self._api.get("/api/v1/nodes")["items"])
        self.replicas = self._api.get(FUNCTION)["spec"]["replicas"]

    def spread(self) -> None:
        """With several nodes: the source on the first one, the sink on the second. The functions are on all."""
        ends = zip(("source", "sink"), self.nodes, strict=False)
        for app, node in ends if len(self.nodes) > 1 else ():
            place = {"nodeSelector": {"kubernetes.io/hostname": node}}
            self._patch(f"{DEPLOYMENTS}/{app}", {"spec": {"template": {"spec": place}}})
            cluster.kubectl(f"--namespace={NAMESPACE}", "rollout", "status", f"deployment/{app}", "--timeout=180s")
        one_of_each = self._answers(lambda: len(self._pods("app in (source,sink)")) == 2)
        cluster.until(one_of_each, "one source and one sink are there", MINUTES)

    # Looks

    def functions(self) -> list[Pod]:
        """The function's pods that do not terminate, the oldest first."""
        return [pod for pod in self._pods("app=function") if not leaving(pod)]

    def settled(self) -> bool:
        """Whether as many functions as asked for exist, all Ready. Others may still drain."""
        functions = self.functions()
        return len(functions) == self.replicas and all(has(pod, "Ready") for pod in functions)

    def settle(self) -> None:
        """Returns when the chain is settled; RuntimeError after MINUTES."""
        cluster.until(self._answers(self.settled), f"{self.replicas} functions are Ready", MINUTES)

    def quiet(self) -> bool:
        """Whether the chain is settled and no replica drains any more."""
        return self.settled() and len(self._pods("app=function")) == self.replicas

    def process(self, app: str) -> int:
        """The process id, on this machine, of the first container of that application's only pod."""
        return processes(container(self._pods(f"app={app}")[0]))[0]

    def disagreements(self) -> list[str]:
        """How a quiet chain's status or its host links differ from the replicas that exist; empty when they agree."""
        functions = [pod["metadata"]["name"] for pod in self._pods("app=function")]
        found = self._api.get(f"/apis/sfc.dev/v1alpha1/namespaces/{NAMESPACE}/crossconnections")["items"]
        sides = [side for connection in found for side in ("upstream", "downstream")]
        told = [c["status"][s]["serving"] for c in found for s in ("upstream", "downstream")]
        broken = []
        if sorted(told) != sorted([1, self.replicas, self.replicas, 1]):
            broken.append(f"status: {told} links serve, of {len(sides)} sides; {len(functions)} functions: {functions}")
        names = [line.split()[1] for line in cluster.in_node("ip", "-o", "link").splitlines()]
        links = [name for name in names if name.startswith("sfc") and "@" in name]  # without the tunnel's device
        if len(links) != 2 * len(functions) + 2:
            broken.append(f"{len(links)} host links for {len(functions)} functions")
        return broken

    # Events of the function

    def scale(self, replicas: int, wait: bool = True) -> None:
        """Scales the function. When it shrinks, the oldest replica leaves first: it has the most sessions to lose."""
        if replicas < self.replicas:
            for pod in self.functions()[: self.replicas - replicas]:
                self._annotate(pod, {DELETION_COST: "-100"})
        self.replicas = replicas
        self._patch(FUNCTION, {"spec": {"replicas": replicas}})
        if wait:
            self.settle()

    def roll(self) -> None:
        """A rolling update of the function."""
        before = {name(pod) for pod in self.functions()}
        stamp = {"metadata": {"annotations": {"benchmark/rolled": str(time.time_ns())}}}
        self._patch(FUNCTION, {"spec": {"template": stamp}})
        cluster.until(
            self._answers(lambda: self.settled() and not before & {name(pod) for pod in self.functions()}),
            "all functions are replaced",
            MINUTES,
        )

    def set_deadline(self, seconds: int) -> None:
        """Sets the chain's drain deadline."""
        chain = f"/apis/sfc.dev/v1alpha1/namespaces/{NAMESPACE}/servicefunctionchains/events"
        self._api.patch(chain, {"spec": {"drain": {"deadlineSeconds": seconds}}}, "application/merge-patch+json")

    def delete(self, pod: Pod, by_force: bool) -> None:
        """Deletes a replica; by force, without a grace period."""
        options: dict[str, str | int | bool] = {"gracePeriodSeconds": 0} if by_force else {}
        self._api.delete(f"{PODS}/{name(pod)}", options)

    # Events of the components behind it

    def agent(self, node: str = "node1") -> Pod:
        """The newest pod of that node's agent."""
        return [pod for pod in self._system_pods("sfc-node") if node_of(pod) == node][-1]

    def kill_agent(self, number: int = 0) -> None:
        """Kills the process of an agent, of one node after the other by `number`, and waits until it is back."""
        node = self.nodes[number % len(self.nodes)]
        before = restarts(self.agent(node), "node")
        kill(container(self.agent(node), "node"))
        cluster.until(
            self._answers(lambda: restarts(self.agent(node), "node") > before and has(self.agent(node), "Ready")),
            "the node agent is back",
            MINUTES,
        )

    def roll_agent(self, image: str | None = None) -> None:
        """Replaces the agent's pods; with that image, if given."""
        before = {name(pod) for pod in self._system_pods("sfc-node")}
        template: dict[str, Any] = {"metadata": {"annotations": {"benchmark/rolled": str(time.time_ns())}}}
        if image:
            containers = [{"name": each, "image": image} for each in ("node", "hooks")]
            template["spec"] = {
                "containers": containers,
                "initContainers": [{"name": "install-cni", "image": image}],
            }
        self._patch(AGENT, {"spec": {"template": template}})

        def replaced() -> bool:
            agents = self._system_pods("sfc-node")
            new = [pod for pod in agents if name(pod) not in before and has(pod, "Ready")]
            return len(new) == len(agents) == len(self.nodes)

        cluster.until(self._answers(replaced), "the new agents alone are Ready", MINUTES * len(self.nodes))

    def other_image(self) -> str:
        """The agent's image that does not run: that of the next version, or that of the present one."""
        image = self._api.get(AGENT)["spec"]["template"]["spec"]["containers"][0]["image"]
        return IMAGE if image == NEXT_IMAGE else NEXT_IMAGE

    def restart_webhook(self) -> None:
        """Replaces the webhook's pods."""
        cluster.kubectl("--namespace=sfc-system", "rollout", "restart", "deployment/sfc-webhook")
        cluster.kubectl("--namespace=sfc-system", "rollout", "status", "deployment/sfc-webhook", "--timeout=180s")

    def lose_api_server(self, seconds: float) -> None:
        """Kills the API server, and starts it again after so many seconds."""
        cluster.testbed("api-server", "stop")
        time.sleep(seconds)
        cluster.testbed("api-server", "start")
        self.settle()
        cluster.until(self._answers(self.agents_ready), "the agents are Ready", MINUTES)

    def agents_ready(self) -> bool:
        """Whether the newest agent of every node is Ready."""
        return all(has(self.agent(node), "Ready") for node in self.nodes)

    # Events of a node

    def unplug(self, node: str, seconds: float) -> None:
        """Cuts a node off the others, and plugs it in again after so many seconds; returns when all are Ready."""
        cluster.testbed("link", "off", node)
        time.sleep(seconds)
        cluster.testbed("link", "on", node)
        self.settle()
        cluster.until(self._answers(self.agents_ready), "the agents are Ready", MINUTES)

    def cut_power(self, node: str, seconds: float) -> None:
        """Cuts a node's power, and gives it again after so many seconds; returns when its replicas are back."""
        before = {name(pod): restarts(pod) for pod in [*self.functions_on(node), self.agent(node)]}
        cluster.testbed("power", "off", node)
        time.sleep(seconds)
        cluster.testbed("power", "on", node)

        def back() -> bool:
            there = [*self.functions_on(node), self.agent(node)]
            return all(has(pod, "Ready") and restarts(pod) > before.get(name(pod), -1) for pod in there)

        cluster.until(self._answers(back), f"the replicas of {node} are back", MINUTES)
        self.settle()

    def fall_behind(self, node: str, seconds: float) -> None:
        """From now on that node's view of the cluster is so many seconds late."""
        cluster.testbed("lag", node, str(seconds))

    def leave_unseen(self, node: str, behind: float) -> None:
        """A replica of another node leaves while that node's view of the cluster is so many seconds behind.

        Returns when the view is as it should be.
        """
        self.fall_behind(node, behind)
        try:
            elsewhere = [pod for pod in self.functions() if node_of(pod) != node]
            self._annotate(elsewhere[0], {DELETION_COST: "-1000"})
            self.replicas -= 1
            self._patch(FUNCTION, {"spec": {"replicas": self.replicas}})
            self.settle()
            time.sleep(behind + 1)  # no new session was for it since then, as far as this node can tell
        finally:
            self.fall_behind(node, 0)

    def functions_on(self, node: str) -> list[Pod]:
        """The function's pods there that do not terminate."""
        return [pod for pod in self.functions() if node_of(pod) == node]

    def returned(self) -> int:
        """Frames that have come back to their nodes so far: the replicas were leaving. The nodes of those have no count
        of it once their last one in the cross-connection has left."""
        texts = [metrics.of(self._address(node)) for node in self.nodes]
        return sum(metrics.total(text, "sfc_remarkable_packets_total", verdict="chosen_again") for text in texts)

    def _address(self, node: str) -> str:
        return str(self.agent(node)["status"]["podIP"])

    def said(self, node: str = "node1", **fields: str) -> list[dict[str, Any]]:
        """The lines of that node's agent's log that have these fields."""
        output = cluster.kubectl("--namespace=sfc-system", "logs", name(self.agent(node)), "--container=node")
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')]
        return [line for line in lines if fields.items() <= line.items()]

    def _pods(self, selector: str) -> list[Pod]:
        found = self._api.get(PODS, {"labelSelector": selector})["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _system_pods(self, app: str) -> list[Pod]:
        found = self._api.get(SYSTEM_PODS, {"labelSelector": f"app.kubernetes.io/name={app}"})["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
        self._patch(f"{PODS}/{name(pod)}", {"metadata": {"annotations": annotations}})

    def _patch(self, path: str, body: Mapping[str, Any]) -> None:
        self._api.patch(path, body, STRATEGIC_MERGE_PATCH)

    def _answers(self, look: Callable[[], bool]) -> Callable[[], bool]:
        """The same look, except that it is False when the API server does not answer."""

        def attempt() -> bool:
            time.sleep(0.1)  # looking more often would load the machine
            try:
                return look()
            except ApiError:
                return False

        return attempt


def build_next_image() -> None:
    """Builds NEXT_IMAGE: the node agent of a version whose maps have another layout.

    RuntimeError when the code has changed so that NEXT_LAYOUT does not fit any more.
    """
    context = BUILD / "next-layout"
    shutil.rmtree(context, ignore_errors=True)
    for folder in ("bpf", "certs", "cni", "controller", "kube", "serving", "sfc", "deploy"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(cluster.CHECKOUT / folder, context / folder, ignore=ignored)
    shutil.copy(cluster.CHECKOUT / "requirements.lock", context)
    change_layout(context)
    cluster.build(NEXT_IMAGE, str(context / "deploy" / "controller.Dockerfile"), str(context))


def change_layout(copy: Path) -> None:
    """Makes a copy of the project the next version. RuntimeError as above."""
    for file, before, after in NEXT_LAYOUT:
        text = (copy / file).read_text()
        if text.count(before) != 1:
            raise RuntimeError(f"{file} has {before!r} not exactly once: mend NEXT_LAYOUT in {Path(__file__).name}")
        (copy / file).write_text(text.replace(before, after))


def name(pod: Pod) -> str:
    """The pod's name."""
    return str(pod["metadata"]["name"])


def node_of(pod: Pod) -> str:
    """The name of its node; empty while it has none."""
    return str(pod["spec"].get("nodeName", ""))


def stamp(pod: Pod) -> str:
    """The number that the function writes into datagrams (benchmarks/events.yaml), as eight hexadecimal digits."""
    return str(pod["metadata"]["uid"]).partition("-")[0]


def leaving(pod: Pod) -> bool:
    """Whether its deletion was asked for."""
    return "deletionTimestamp" in pod["metadata"]


def has(pod: Pod, condition: str) -> bool:
    """Whether that condition of the pod is True."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


def restarts(pod: Pod, of: str | None = None) -> int:
    """How often the container of that name was restarted, or all of them together."""
    return sum(s["restartCount"] for s in pod["status"].get("containerStatuses", ()) if of in (None, s["name"]))


def container(pod: Pod, of: str | None = None) -> str:
    """The id of the container of that name, or of the first one."""
    status = next(s for s in pod["status"]["containerStatuses"] if of in (None, s["name"]))
    return str(status["containerID"]).removeprefix("containerd://")


def sandbox(pod: Pod) -> str:
    """The id of the container that holds the pod's namespaces."""
    label = f"labels.io.kubernetes.pod.uid=={pod['metadata']['uid']}"
    listed = cluster.in_node("ctr", "-n", "k8s.io", "containers", "ls", label, "-q", node=node_of(pod)).split()
    known = {container_id(status) for status in pod["status"].get("containerStatuses", ())}
    running = [each for each in listed if each not in known and processes(each)]
    return running[0]


def container_id(status: Mapping[str, Any]) -> str:
    """From a container's status; empty when it has none yet."""
    return str(status.get("containerID", "")).removeprefix("containerd://")


def processes(container: str) -> Sequence[int]:
    """The ids, on this machine, of a container's processes. The first is the one whose end is the container's end."""
    found = {}
    for cgroup in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):  # it has ended
            if container in cgroup.read_text():
                found[int(cgroup.parent.name)] = _own_number(cgroup.parent)
    return sorted(found, key=found.__getitem__)


def _own_number(process: Path) -> int:
    """The process's id in its own PID namespace. Ids on this machine may have wrapped around, so they give no order."""
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return int(status["NSpid"].split()[-1])


def kill(container: str, number: signal.Signals = signal.SIGKILL) -> float:
    """Sends a signal to a container's first process; returns when, in seconds since 1970."""
    first, *_ = processes(container)
    at = time.time()
    os.kill(first, number)
    return at


def moment(line: Mapping[str, Any]) -> float:
    """When the data path was written for a transition, from its line in the agent's log; seconds since 1970."""
    return datetime.fromisoformat(line["since"]).timestamp() + float(line["after_ms"]) / 1000
