#!/usr/bin/env python3
"""The demo: a four-stage chain, scaled out and in while traffic crosses it, and an account of what happened.

On a cluster of several nodes, the replicas of each stage are on several of them, and one node is drained as well.

    .venv/bin/python deploy/examples/demo.py --kubeconfig build/kubeconfig --output build/demo.json

It needs a running cluster that has Multus, this project's images (`localhost/sfc/...:dev`) and the one of the network
functions. It does the rest with commands that anybody can type, and prints each of them. It fails when a packet was
lost, a connection broke, a replica carried no session, or all replicas of a stage were on one of several nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kubectl import Answer, DemoError, Kubectl, wait
from observers import NODE_AGENT, SYSTEM_NAMESPACE, SessionCount, Traffic, Traffics
from readiness import running, scaled, stays, wired
from sessions import Crossing, Replica, by_stage, complaints, crossed, since, table, table_of_nodes

EXAMPLES = Path(__file__).parent
NAMESPACE, CHAIN = "telco", "edge"
STAGES = ("client", "firewall", "nat", "server")
SCALED = ("firewall", "nat")
REPLICAS = 4
ENDS = ("client", "server")
PORTS_OF_ENDS = ("10000-34999", "35000-59999")
"""With several nodes there are two clients. They have one address, so each has source ports of its own."""
DATAGRAMS_PER_SECOND, FLOWS, CONNECTIONS = 2000, 100, 8
"""Of all clients together."""
SERVER = "198.51.100.2"

SETTLE_SECONDS = 3
FULL_SCALE_SECONDS = 12
LONGEST_TRAFFIC_SECONDS = 420
START_SECONDS = 30
INSTALL_SECONDS, APPLY_SECONDS, WIRE_SECONDS, SCALE_SECONDS, METRICS_SECONDS = 180, 30, 120, 90, 150
DRAIN_SECONDS = 120


class Demo:
    """The steps of the demo. It measures how long each one takes."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._steps: list[dict[str, Any]] = []
        self._nodes = sorted(str(node["metadata"]["name"]) for node in kubectl.get("nodes")["items"])

    def run(self) -> dict[str, Any]:
        """Runs all steps and returns the report. Raises DemoError when a step does not end in time."""
        self._install()
        self._wire()
        return self._scale_under_traffic()

    def _install(self) -> None:
        title("Install the project")
        with self._step("install"):
            system = ("--namespace", SYSTEM_NAMESPACE)
            before = self._kubectl.get(*system, "deployments,daemonsets")["items"]
            self._kubectl.act("apply", "--kustomize", str(EXAMPLES.parent))
            if before:  # the images may have been rebuilt under the same tag
                for kind in ("deployment", "daemonset"):
                    self._kubectl.act(*system, "rollout", "restart", kind)
            wait(lambda: installed(self._kubectl), seconds=INSTALL_SECONDS)

    def _wire(self) -> None:
        title("Create a chain of four stages, and four ordinary Deployments")
        for manifest in ("chain.yaml", "functions.yaml"):
            self._apply(manifest)
        if len(self._nodes) > 1:
            self._spread()
        title("Make each Deployment a stage, by two labels: pods of the chain replace its pods")
        with self._step("label, until the chain is ready"):
            for stage in STAGES:
                labels = (f"sfc.dev/chain={CHAIN}", f"sfc.dev/stage={stage}")
                self._act("label", "deployment", stage, *labels, "--overwrite")
            wait(self._wired, seconds=WIRE_SECONDS)
        self._act("exec", self._clients()[0], "--", "ping", "-c", "3", "-i", "0.3", "-W", "2", SERVER)

    def _spread(self) -> None:
        title(f"Spread the replicas over the {len(self._nodes)} nodes, and have two of each end of the chain")
        self._act("patch", "deployment", *STAGES, "--patch-file", str(EXAMPLES / "spread.yaml"))
        self._act("scale", "deployment", *ENDS, f"--replicas={len(PORTS_OF_ENDS)}")

    def _scale_under_traffic(self) -> dict[str, Any]:
        title("Let an account read metrics, which count the sessions")
        self._apply("metrics-reader.yaml")
        title("Send traffic from the client to the server, and scale meanwhile")
        with ExitStack() as cleanup:
            count = SessionCount(self._kubectl, NAMESPACE, CHAIN)
            cleanup.callback(count.stop)
            # On a cluster that is new to the project, the kubelet may need a minute to bring agents the certificate.
            wait(lambda: Answer(bool(count.now()), "metrics are served"), seconds=METRICS_SECONDS)
            before, nodes_before = count.now(), count.by_node()
            traffic = self._traffic()
            cleanup.callback(traffic.abandon)
            let_flow(traffic, SETTLE_SECONDS)
            for stage in SCALED:
                self._scale(stage, REPLICAS, traffic)
            replicas, full_from = self._replicas(), count.now()
            let_flow(traffic, FULL_SCALE_SECONDS)
            full_until = count.now()
            if len(self._nodes) > 1:
                self._drain_a_node(traffic)
            for stage in reversed(SCALED):
                self._scale(stage, 1, traffic)
            let_flow(traffic, SETTLE_SECONDS)
            result = traffic.finish()
            stages = by_stage(replicas, since(count.now(), before), since(full_until, full_from))
            nodes = {node: now.since(nodes_before[node]) for node, now in count.by_node().items()}
        return report(result, stages, nodes, self._steps)

    def _traffic(self) -> Traffics:
        """From every client; together they send what one would send alone."""
        clients, longest = self._clients(), f"--duration={LONGEST_TRAFFIC_SECONDS}"
        if len(clients) == 1:
            return Traffics([Traffic(self._kubectl, NAMESPACE, clients[0], SERVER, longest)])
        counts = {"rate": DATAGRAMS_PER_SECOND, "flows": FLOWS, "connections": CONNECTIONS}
        share = [f"--{name}={count // len(clients)}" for name, count in counts.items()]
        return Traffics(
            [
                Traffic(self._kubectl, NAMESPACE, client, SERVER, longest, *share, f"--ports={ports}")
                for client, ports in zip(clients, PORTS_OF_ENDS, strict=True)
            ]
        )

    def _drain_a_node(self, traffic: Traffics) -> None:
        """One without a client, which would have to end its traffic."""
        with_client = {pod["spec"]["nodeName"] for pod in self._pods("client")}
        node = next((node for node in self._nodes if node not in with_client), None)
        if node is None:
            print("\nEvery node has a client, which sends: none is drained.", flush=True)
            return
        title(f"Drain {node} while the traffic flows: its replicas leave, and others take their place on other nodes")
        options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DRAIN_SECONDS}s")
        with self._step(f"drain {node}", trafficSecond=traffic.seconds):
            self._kubectl.act("drain", node, *options, seconds=DRAIN_SECONDS + 10)
            for stage in (*SCALED, "server"):
                self._wait_scaled(stage, REPLICAS if stage in SCALED else len(PORTS_OF_ENDS), traffic)
        let_flow(traffic, SETTLE_SECONDS)
        self._kubectl.act("uncordon", node)

    def _scale(self, stage: str, replicas: int, traffic: Traffics) -> None:
        with self._step(f"scale {stage} to {replicas}", trafficSecond=traffic.seconds):
            self._act("scale", "deployment", stage, f"--replicas={replicas}")
            self._wait_scaled(stage, replicas, traffic)

    def _wait_scaled(self, stage: str, replicas: int, traffic: Traffics) -> None:
        wait(
            lambda: scaled(self._pods(stage), stage, replicas),
            seconds=SCALE_SECONDS,
            note=lambda: f" ({traffic.words()})",
        )

    def _wired(self) -> Answer:
        deployments = self._in_namespace("deployments")["items"]
        chain = self._in_namespace("servicefunctionchain", CHAIN)
        return wired(deployments, chain)

    def _apply(self, manifest: str) -> None:
        """Tries for a while: a webhook that has just become ready may not be reachable through its Service yet."""
        arguments = ("apply", "--filename", str(EXAMPLES / manifest))
        print(f"\n$ kubectl {' '.join(arguments)}", flush=True)
        wait(lambda: Answer(True, "; ".join(self._kubectl.ask(*arguments).splitlines())), seconds=APPLY_SECONDS)

    def _act(self, *arguments: str) -> None:
        self._kubectl.act("--namespace", NAMESPACE, *arguments)

    def _in_namespace(self, *what: str) -> dict[str, Any]:
        return self._kubectl.get("--namespace", NAMESPACE, *what)

    def _pods(self, stage: str = "") -> list[dict[str, Any]]:
        """Pods of the chain, or of one stage, including those that are leaving."""
        selector = f"sfc.dev/chain={CHAIN}" + (f",sfc.dev/stage={stage}" if stage else "")
        pods: list[dict[str, Any]] = self._in_namespace("pods", f"--selector={selector}")["items"]
        return pods

    def _clients(self) -> list[str]:
        return [str(pod["metadata"]["name"]) for pod in self._pods("client") if stays(pod)]

    def _replicas(self) -> list[Replica]:
        found = [
            Replica(pod["metadata"]["labels"]["sfc.dev/stage"], pod["metadata"]["name"], pod["spec"]["nodeName"])
            for pod in self._pods()
            if stays(pod)
        ]
        return sorted(found, key=lambda replica: STAGES.index(replica.stage))

    @contextmanager
    def _step(self, action: str, **more: Any) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._steps.append({"action": action, "seconds": round(time.monotonic() - began, 1), **more})


def title(text: str) -> None:
    """Prints the title of a step."""
    print(f"\n=== {text}", flush=True)


def let_flow(traffic: Traffics, seconds: float) -> None:
    """Waits so many seconds, and for the first packet. Raises DemoError when the traffic ends or does not start."""
    print(f"\nLetting the traffic flow for {seconds} s.", flush=True)
    until = time.monotonic() + seconds
    wait(
        lambda: Answer(traffic.seconds > 0 and time.monotonic() >= until, "client to server"),
        seconds=seconds + START_SECONDS,
        note=lambda: f" ({traffic.words()})",
    )


def installed(kubectl: Kubectl) -> Answer:
    """Done when all components run and the API server trusts the webhooks."""
    words, done = [], True
    for workload in kubectl.get("--namespace", SYSTEM_NAMESPACE, "deployments,daemonsets")["items"]:
        have, want = running(workload)
        words.append(f"{workload['metadata']['name']} {have} of {want}")
        done = done and have == want > 0
    return Answer(done and bool(words) and trusted(kubectl), ", ".join(words) or "nothing there yet")


def trusted(kubectl: Kubectl) -> bool:
    """True when the API server has the certificate that it needs to trust the webhooks (caBundle)."""
    kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
    clients = [hook["clientConfig"] for item in kubectl.get(kinds)["items"] for hook in item.get("webhooks", ())]
    ours = [c for c in clients if c.get("service", {}).get("namespace") == SYSTEM_NAMESPACE]
    return bool(ours) and all(client.get("caBundle") for client in ours)


def report(
    result: Mapping[str, Any], stages: dict[str, Any], nodes: Mapping[str, Crossing], steps: list[dict[str, Any]]
) -> dict[str, Any]:
    """The figures of the demo, as they are written to its JSON file.

    `crossed` is the share of the sessions, hop by hop, whose replicas are on different nodes.
    """
    return {
        "packets": result["packets"],
        "lost": result["packets"]["lost"],
        "connections": result["connections"],
        "stages": stages,
        "crossed": crossed(nodes),
        "nodes": {name: {"sessions": node.sessions, "crossed": node.share} for name, node in sorted(nodes.items())},
        "steps": steps,
        "traffic": {key: result[key] for key in ("started", "seconds", "lostPerSecond", "breaks", "bufferErrors")},
    }


def summary(outcome: Mapping[str, Any]) -> str:
    """The figures of the demo as a text for people."""
    steps = "\n".join(f"  {step['seconds']:6.1f} s  {step['action']}" for step in outcome["steps"])
    nodes = outcome["nodes"]
    places = (
        f"""
{table_of_nodes(outcome["stages"], nodes)}

crossed      {outcome["crossed"]:.0%} of all sessions, hop by hop, had their two replicas on different nodes
"""
        if len(nodes) > 1
        else ""
    )
    return f"""{table(outcome["stages"])}
{places}
packets      {figures(outcome["packets"], "sent", "received", "lost", "duplicated", "reordered")}
connections  {figures(outcome["connections"], "opened", "completed", "broken")}

{steps}"""


def figures(counts: Mapping[str, int], *names: str) -> str:
    """The named counts on one line."""
    return "   ".join(f"{name} {counts[name]:,}" for name in names)


def look_around(kubeconfig: str | None) -> str:
    """Commands with which the reader can look at the cluster."""
    export = f"  export KUBECONFIG={Path(kubeconfig).absolute()}\n" if kubeconfig else ""
    return f"""The cluster is still up. Look around:
{export}  kubectl get sfc,xc -A
  kubectl -n {NAMESPACE} describe sfc {CHAIN}
  kubectl -n {NAMESPACE} get pods --show-labels
  make clean        removes everything"""


def where_to_look(outcome: Mapping[str, Any]) -> str:
    """Figures and commands that help to find the cause of a failure."""
    traffic = outcome["traffic"]
    begun = {step["action"]: step["trafficSecond"] for step in outcome["steps"] if "trafficSecond" in step}
    return f"""  packets lost, by the second in which they were sent: {traffic["lostPerSecond"] or "none"}
  at most so many of these were lost before the server: {outcome["packets"]["lostBeforeServer"]}
  dropped at the client's own full buffers: {traffic["bufferErrors"]}
  connections broken: {traffic["breaks"] or "none"}
  second of the traffic in which each step began: {begun}
  the server's log: kubectl -n {NAMESPACE} logs deployment/server
  the node agents' log: kubectl -n {SYSTEM_NAMESPACE} logs daemonset/{NODE_AGENT}"""


def main() -> int:
    """Runs the demo and returns the exit status: 0 if everything went well, otherwise 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG"), help="default: $KUBECONFIG")
    parser.add_argument("--output", type=Path, default=Path("build/demo.json"), help="where the figures go as JSON")
    options = parser.parse_args()
    try:
        outcome = Demo(Kubectl(os.environ.get("KUBECTL", "kubectl"), options.kubeconfig)).run()
    except DemoError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    failures = complaints(outcome)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(outcome | {"failures": failures}, indent=2) + "\n")
    title("What happened")
    print(f"{summary(outcome)}\n\nThe same figures: {options.output}\n\n{look_around(options.kubeconfig)}", flush=True)
    if failures:
        print(f"\nThe demo failed: {'; '.join(failures)}\n{where_to_look(outcome)}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
