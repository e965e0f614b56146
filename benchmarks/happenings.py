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

from benchmarks import cluster
from benchmarks.report import BUILD
from kube.api import STRATEGIC_MERGE_PATCH, ApiError, ApiServer

NAMESPACE = "events"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
FUNCTION = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/function"
SYSTEM_PODS = "/api/v1/namespaces/sfc-system/pods"
AGENT = "/apis/apps/v1/namespaces/sfc-system/daemonsets/sfc-node"
WIRED = "sfc.dev/wired"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
IMAGE = "localhost/sfc/controller:dev"
NEXT_IMAGE = "localhost/sfc/controller:next"
MINUTES = 180.0

NEXT_LAYOUT = (
    ("bpf/session.h", "\n};\n\nenum standing {", "\n\tu64 more;\n};\n\nenum standing {"),
    ("bpf/cross_connect.c", "\tu32 stamp; /* session.h */\n};", "\tu32 stamp; /* session.h */\n\tu32 more;\n};"),
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
        self.replicas = self._api.get(FUNCTION)["spec"]["replicas"]

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

    def agent(self) -> Pod:
        """The newest pod of the node agent."""
        return self._system_pods("sfc-node")[-1]

    def kill_agent(self) -> None:
        """Kills the agent's process, and waits until it is back."""
        before = restarts(self.agent(), "node")
        kill(container(self.agent(), "node"))
        cluster.until(
            self._answers(lambda: restarts(self.agent(), "node") > before and has(self.agent(), "Ready")),
            "the node agent is back",
            MINUTES,
        )

    def roll_agent(self, image: str | None = None) -> None:
        """Replaces the agent's pod; with that image, if given."""
        before = name(self.agent())
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
            return len(agents) == 1 and name(agents[0]) != before and has(agents[0], "Ready")

        cluster.until(self._answers(replaced), "the new agent alone is Ready", MINUTES)

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
        cluster.until(self._answers(lambda: has(self.agent(), "Ready")), "the agent is Ready", MINUTES)

    def said(self, **fields: str) -> list[dict[str, Any]]:
        """The lines of the agent's log that have these fields."""
        output = cluster.kubectl("--namespace=sfc-system", "logs", name(self.agent()), "--container=node")
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
    for file, before, after in NEXT_LAYOUT:
        text = (context / file).read_text()
        if text.count(before) != 1:
            raise RuntimeError(f"{file} has {before!r} not exactly once: mend NEXT_LAYOUT in {Path(__file__).name}")
        (context / file).write_text(text.replace(before, after))
    cluster.build(NEXT_IMAGE, str(context / "deploy" / "controller.Dockerfile"), str(context))


def name(pod: Pod) -> str:
    """The pod's name."""
    return str(pod["metadata"]["name"])


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


def restarts(pod: Pod, of: str) -> int:
    """How often the container of that name was restarted."""
    return sum(s["restartCount"] for s in pod["status"].get("containerStatuses", ()) if s["name"] == of)


def container(pod: Pod, of: str | None = None) -> str:
    """The id of the container of that name, or of the first one."""
    status = next(s for s in pod["status"]["containerStatuses"] if of in (None, s["name"]))
    return str(status["containerID"]).removeprefix("containerd://")


def sandbox(pod: Pod) -> str:
    """The id of the container that holds the pod's namespaces."""
    label = f"labels.io.kubernetes.pod.uid=={pod['metadata']['uid']}"
    listed = cluster.in_node("ctr", "-n", "k8s.io", "containers", "ls", label, "-q").split()
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
