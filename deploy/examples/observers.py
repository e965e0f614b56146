"""Runs beside the steps of the demo: the traffic in the client pod, and the count of sessions of each replica."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import scrape
from kubectl import DemoError, Kubectl
from sessions import NOTHING, Crossing, Replica, combined, crossing, merged, parse

SAMPLE_SECONDS = 2.0
SYSTEM_NAMESPACE = "sfc-system"
NODE_AGENT = "sfc-node"
LAST_ANSWER_SECONDS = 60.0


class Traffic:
    """The traffic tool in the client pod, from construction until `finish` or `abandon`; it ends with this process."""

    def __init__(self, kubectl: Kubectl, namespace: str, pod: str, server: str, *options: str) -> None:
        """`options`: of the tool."""
        # The tool stops when its standard input ends, so no traffic outlives the demo.
        tool = ("traffic.py", "client", server, "--until-enter", *options)
        self._process = kubectl.start("--namespace", namespace, "exec", "--stdin", pod, "--", *tool)
        self._progress: dict[str, Any] = {}
        self._result: dict[str, Any] | None = None
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def seconds(self) -> float:
        """Seconds since the first datagram; 0 before the tool's first report."""
        return float(self._progress.get("seconds", 0))

    @property
    def progress(self) -> Mapping[str, Any]:
        """The tool's latest report; empty before the first one. Raises DemoError if the tool has ended."""
        if self._process.poll() is not None:
            raise DemoError(f"the traffic ended before its time: {self._last_words()}")
        return self._progress

    def ask_to_finish(self) -> None:
        """Lets the flows end, and does not wait for that."""
        with suppress(OSError, ValueError):  # it has ended, or was asked before
            if self._process.stdin:
                self._process.stdin.write("\n")
                self._process.stdin.close()

    def finish(self) -> dict[str, Any]:
        """Lets the flows end, and returns the client's result. Raises DemoError if there is none."""
        self.ask_to_finish()
        try:
            self._process.wait(LAST_ANSWER_SECONDS)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise DemoError(f"the client did not finish: {error}: {self._last_words()}") from error
        for reader in self._readers:
            reader.join(LAST_ANSWER_SECONDS)
        if self._result is None:
            raise DemoError(f"the client gave no result: {self._last_words()}")
        return self._result

    def abandon(self) -> None:
        """Stops the tool without a result; does nothing if it has ended."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if line.startswith("RESULT "):
                self._result = json.loads(line.removeprefix("RESULT "))
            elif line.startswith("{"):
                self._progress = json.loads(line)

    def _read_errors(self) -> None:
        for line in self._process.stderr or ():
            self._errors.append(line.strip())

    def _last_words(self) -> str:
        return " / ".join(self._errors[-3:]) or "it said nothing"


class Traffics:
    """The traffic of several clients, which counts as one."""

    def __init__(self, clients: Sequence[Traffic]) -> None:
        self._clients = clients

    @property
    def seconds(self) -> float:
        """Seconds since the first datagram of the last client; 0 before its first report."""
        return min(client.seconds for client in self._clients)

    def words(self) -> str:
        """The traffic so far, as a text. Raises DemoError if one of the clients has ended."""
        reports = [client.progress for client in self._clients]
        if not all(reports):
            return "no word from the client yet"
        packets, connections = (combined(reports)[counts] for counts in ("packets", "connections"))
        return (
            f"sent {packets['sent']:,}, lost {packets['lost']:,}; "
            f"connections {connections['opened']:,}, broken {connections['broken']:,}"
        )

    def finish(self) -> dict[str, Any]:
        """Lets the flows of all end, and returns their results as one. Raises DemoError if one has none."""
        for client in self._clients:
            client.ask_to_finish()
        return combined([client.finish() for client in self._clients])

    def abandon(self) -> None:
        """Stops the clients without a result; does nothing if they have ended."""
        for client in self._clients:
            client.abandon()


class SessionCount:
    """Counts the sessions of each replica. It samples all the time: the counters of a leaving replica disappear."""

    def __init__(self, kubectl: Kubectl, namespace: str, chain: str) -> None:
        self._kubectl, self._namespace, self._chain = kubectl, namespace, chain
        self._agents = {node: scrape.Agent(kubectl, pod) for node, pod in self._node_agents().items()}
        self._seen: dict[Replica, int] = {}
        self._crossing: dict[str, Crossing] = {}
        self._sampling = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._thread.start()

    def now(self) -> dict[Replica, int]:
        """A new sample: the most sessions seen so far of each replica. Raises DemoError if an agent does not answer."""
        with self._sampling:
            for node, agent in self._agents.items():
                metrics = agent.read()
                self._seen = merged(self._seen, parse(metrics, self._namespace, self._chain))
                self._crossing[node] = crossing(metrics, self._crossing.get(node, NOTHING))
            return dict(self._seen)

    def by_node(self) -> dict[str, Crossing]:
        """By node, its sessions and those between it and others, as of the latest sample."""
        with self._sampling:
            return dict(self._crossing)

    def stop(self) -> None:
        """Stops sampling."""
        self._stopping.set()
        self._thread.join()
        for agent in self._agents.values():
            agent.close()

    def _sample_until_stopped(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            try:
                self.now()
            except DemoError as error:
                print(f"  (no sample of sessions: {error})", flush=True)

    def _node_agents(self) -> dict[str, str]:
        """By node, the pod."""
        pods = self._kubectl.get("--namespace", SYSTEM_NAMESPACE, "pods")["items"]
        owned = {
            pod["spec"]["nodeName"]: pod["metadata"]["name"]
            for pod in pods
            if any(owner["name"] == NODE_AGENT for owner in pod["metadata"].get("ownerReferences", ()))
        }
        if not owned:
            raise DemoError(f"namespace {SYSTEM_NAMESPACE} has no pod of DaemonSet {NODE_AGENT}: is deploy/ applied?")
        return owned
