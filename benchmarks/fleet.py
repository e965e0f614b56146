"""What one event costs a cluster of many nodes, by simulation: 200 nodes, 200 chains of five stages of 20 replicas.

Every agent is the real code that watches, plans, reconciles and reports; its kernel and the API server are values. Time
is virtual: an agent is busy for as long as its work took here, measured, as if it had a processor for itself, and the
API server takes SEND_SECONDS each way. So the figures need few processors, and say how long senders wait. Beside the
agents there is the cluster controller's own plan, which follows 100 ms after a change, as its queue does.

Replicas are on nodes at random, which is the worst that a scheduler can do: a chain of 100 replicas is on 80 nodes.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.api_server import Json, Place
from benchmarks.fleet_api import SEND_SECONDS, AgentApi, Clock, Cluster, News, Traffic
from benchmarks.report import QUICK, Report, machine
from controller.cluster import plan
from controller.cluster.queue import GATHER_SECONDS
from controller.cluster.snapshot import ChainObject, Pod, chain_object, pod_of
from controller.cluster.store import Store
from controller.cluster.writes import Apply, Create, Outcome, Withdraw
from controller.node.plane import maglev
from controller.node.plane.far import generation
from controller.node.plane.model import CHOSEN_IFINDEX, SLOTS, DataPlane, FarLink, HostLink, LinkEntry
from controller.node.plane.numbers import Numbered
from controller.node.reconcile.cluster_view import ClusterView
from controller.node.reconcile.far_links import FarLinks
from controller.node.reconcile.reconciler import Reconciler
from controller.node.report.conditions import conditions
from controller.node.report.status_writer import StatusWriter
from controller.node.report.transition_log import TransitionLog
from kube.api import ApiServer
from kube.objects import Key
from sfc import names
from sfc.chain import Patience, SessionKey, Side
from sfc.reading import chain_of

NODES, CHAINS, REPLICAS, AGENTS = (20, 20, 4, 20) if QUICK else (200, 200, 20, 40)
"""AGENTS: how many are run. What the agents of the other nodes cost is taken to be the same."""
STAGES = 5
CHAINS_OF_A_NAMESPACE = 10
ROUNDS = 1 if QUICK else 2
POD_FILLING = "x" * 6000
"""Pods are some kilobytes larger than what is read of them."""
CREATED = "2026-01-01T00:00:00Z"
JOINS, LEAVES, CHANGES, DIES, RESTARTS = (
    "a replica joins",
    "a replica leaves",
    "a chain changes",
    "a node dies",
    "an agent restarts",
)
WRITES, TOLD, SENT, LISTED, CPU, WORST, KNOWN = (
    "writes to the API server",
    "events to watches",
    "MB to watches",
    "MB of lists",
    "ms of processor, all agents",
    "ms of processor, the agent with most",
    "ms until every sender knows",
)
UNITS = (KNOWN, WRITES, TOLD, SENT, LISTED, CPU, WORST)


class Kernel:
    """A node's links and maps, and its numbers of other nodes: what stays when an agent restarts."""

    program_fd = 3

    def __init__(self) -> None:
        self.links: dict[int, HostLink] = {}
        self.plane = DataPlane({}, {}, {}, {}, {}, {}, {}, {})
        self.peers: dict[str, int] = {}
        self.moment: Callable[[], float] = float
        self.written_at = 0.0

    def list(self) -> tuple[HostLink, ...]:
        return tuple(self.links.values())

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        self.links[ifindex] = replace(self.links[ifindex], filter_slot=slot)

    def detach(self, ifindex: int) -> None:
        self.links[ifindex] = replace(self.links[ifindex], filter_slot=None)

    def observe(self, known: object = None) -> DataPlane:
        kept = self.plane
        found = (
            kept.links,
            kept.targets,
            kept.neighbours,
            kept.numbers,
            kept.patience,
            kept.session_keys,
            kept.far,
            kept.members,
        )
        return DataPlane({}, *map(dict, found))  # type: ignore[arg-type]

    def set_number(self, number: int, connection: Numbered) -> None:
        self._set(self.plane.numbers, number, connection)

    def set_patience(self, number: int, patience: Patience) -> None:
        self._set(self.plane.patience, number, patience)

    def clear_patience(self, number: int) -> None:
        self._clear(self.plane.patience, number)

    def set_session_key(self, number: int, key: SessionKey) -> None:
        self._set(self.plane.session_keys, number, key)

    def clear_session_key(self, number: int) -> None:
        self._clear(self.plane.session_keys, number)

    def set_link(self, slot: int, entry: LinkEntry) -> None:
        self._set(self.plane.links, slot, entry)

    def clear_link(self, slot: int) -> None:
        self._clear(self.plane.links, slot)

    def set_members(self, number: int, peers: Collection[int]) -> None:
        self._set(self.plane.members, number, frozenset(peers))

    def clear_members(self, number: int) -> None:
        self._clear(self.plane.members, number)

    def set_far_link(self, index: int, link: FarLink) -> None:
        self._set(self.plane.far, index, link)

    def clear_far_link(self, index: int) -> None:
        self._clear(self.plane.far, index)

    def set_targets(self, connection: int, side: Side, table: bytes) -> None:
        self._set(self.plane.targets, (connection, side), table)

    def clear_targets(self, connection: int, side: Side) -> None:
        self._clear(self.plane.targets, (connection, side))

    def set_neighbour(self, connection: int, side: Side, address: str, mac: str) -> None:
        self._set(self.plane.neighbours, (connection, side, address), mac)

    def clear_neighbour(self, connection: int, side: Side, address: str) -> None:
        self._clear(self.plane.neighbours, (connection, side, address))

    def succeeding(self, programs: Collection[int]) -> AbstractContextManager[None]:
        return nullcontext()

    def unlearn(self, connection: int) -> None:
        """Nothing was learned."""

    def forget(self, connection: int) -> None:
        self._clear(self.plane.numbers, connection)

    def sweep(self) -> None:
        """Nothing to sweep."""

    def end_sessions(self, slots: Collection[int]) -> None:
        """There are none."""

    def activity(self, slots: Collection[int]) -> Mapping[int, int]:
        return dict.fromkeys(slots, 0)

    def set(self, number: int, address: str) -> None:
        self.peers[address] = number

    def clear(self, number: int) -> None:
        self.peers = {address: known for address, known in self.peers.items() if known != number}

    def known(self) -> Mapping[str, int]:
        return dict(self.peers)

    def _set(self, of: Mapping[Any, Any], key: object, value: object) -> None:
        cast("dict[Any, Any]", of)[key] = value
        self.written_at = self.moment()

    def _clear(self, of: Mapping[Any, Any], key: object) -> None:
        cast("dict[Any, Any]", of).pop(key, None)
        self.written_at = self.moment()


class Agent:
    """The node agent of one node, without its threads: `step` does what has come until now."""

    def __init__(self, cluster: Cluster, node: str, address: str, kernel: Kernel) -> None:
        self.node = node
        self.kernel = kernel
        self.cpu = 0.0
        """Seconds of work, measured."""
        self._clock = cluster.clock
        self._began = 0.0
        self.busy_until = 0.0
        self._waits = False
        self._muted = True
        kernel.moment = self._moment
        self.api = AgentApi(cluster, self._moment)
        self._news = False
        self.view = ClusterView(cast("ApiServer", self.api), node, self._wake, self._wake_writer)
        far = FarLinks(kernel, kernel.observe())
        self.reconciler = Reconciler(
            kernel,
            kernel,
            lambda: far.joined(self.view.get(), self.view.published()),
            cluster.clock,
        )
        self.writer = StatusWriter(
            self.api,
            node,
            lambda: self.reconciler.state,
            self.view.connections,
            clock=cluster.clock,
            address=lambda: address,
        )
        self.reconciler.observe_with(TransitionLog(self.writer.tell).note)
        self.reconciler.observe_with(lambda _: self._wake_writer())

    def start(self) -> None:
        """Lists everything, and makes the first pass; writes nothing."""
        self._look()
        self.reconciler.reconcile()
        self._muted = False

    def restarted(self) -> None:
        """As `start`, as an event: what it does is measured."""
        self._work(self.start, self.writer.publish)

    def quietly(self) -> None:
        """Learns what has changed, and writes nothing."""
        self._muted = True
        self._look()
        self.reconciler.reconcile()
        self._muted = False
        self._news = False

    def come(self, at: float) -> None:
        """Something is on its way to the agent."""
        if not self._waits:
            self._waits = True
            self._clock.at(at, self._begin)

    def links_changed(self) -> None:
        """The kernel's word of a link."""
        self._work(self.reconciler.links_changed, lambda: self.reconciler.reconcile(verify=False), self._report)

    def _begin(self) -> None:
        if self._clock.now < self.busy_until:
            self._clock.at(self.busy_until, self._begin)
            return
        self._waits = False
        self._work(self._look, self._report)

    def _work(self, *parts: Callable[[], object]) -> None:
        for cache in (maglev._packed, maglev._owners, maglev._row):
            cache.cache_clear()  # another agent's, which has another process
        self._began = time.thread_time()
        for part in parts:
            part()
        took = time.thread_time() - self._began
        self.cpu += took
        self.busy_until = self._clock.now + took
        self._began = 0.0

    def _moment(self) -> float:
        return self._clock.now + (time.thread_time() - self._began if self._began else 0.0)

    def _look(self) -> None:
        for watch in (self.view._chains, self.view._pods, self.view._connections):
            watch._version = watch._version or watch._list()
            watch._follow()

    def _report(self) -> None:
        if self._news:
            self._news = False
            self.writer.publish()

    def _wake(self) -> None:
        if not self._muted:
            self.reconciler.reconcile(verify=False)

    def _wake_writer(self) -> None:
        self._news = True


class Controller:
    """The cluster controller's plan, as its loop follows it: a chain is worked on 100 ms after the first change."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._store = Store()
        self._waiting: set[Key] = set()
        self.muted = True
        cluster.listeners.append(self._hear)

    def _hear(self, kind: str, news: News, before: Json | None, after: Json | None) -> None:
        store, keys = self._store, set[Key]()
        match kind:
            case "servicefunctionchains":
                keys = store.chain(_read_chain(before), _read_chain(after))
            case "pods":
                keys = store.pod(_read_pod(before), _read_pod(after))
            case "crossconnections":
                keys = store.connection(before, after)
            case "nodes":
                keys = store.node(_name(before), _name(after))
        for key in keys if not self.muted else ():
            if key[1] and key not in self._waiting:
                self._waiting.add(key)
                clock = self._cluster.clock
                clock.at(clock.now + SEND_SECONDS + GATHER_SECONDS, partial(self.work, key))

    def work(self, key: Key) -> None:
        """One pass over a chain."""
        self._waiting.discard(key)
        part, now = self._store.part(key), datetime.now(UTC)
        for write in [*plan.needed(part, now), *plan.told(part, Outcome(), now)]:
            match write:
                case Create(_, obj):
                    self._cluster.put(
                        "crossconnections", {**obj, "metadata": {**obj["metadata"], "uid": obj["metadata"]["name"]}}
                    )
                case Apply(path, obj):
                    self._later(path, obj, plan.MANAGER)
                case Withdraw(path, obj, node):
                    self._later(path, obj, names.ENTRY_MANAGER + node)

    def _later(self, path: str, obj: Any, manager: str) -> None:
        clock = self._cluster.clock
        clock.at(clock.now + SEND_SECONDS, lambda: self._cluster.write(Place.of(path), obj, manager))


def _read_chain(obj: Json | None) -> ChainObject | None:
    return chain_object(obj) if obj else None


def _read_pod(obj: Json | None) -> Pod | None:
    return pod_of(obj) if obj else None


def _name(obj: Json | None) -> str | None:
    return obj["metadata"]["name"] if obj else None


class Fleet:
    """The nodes, the chains, and what happens to them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster = Cluster(self.clock)
        self.kernels = {f"node-{at}": Kernel() for at in range(NODES)}
        self.random = random.Random(7)  # noqa: S311
        self.controller = Controller(self.cluster)
        self.agents: dict[str, Agent] = {}
        self._made = Counter[str]()
        self._free: dict[str, list[int]] = defaultdict(lambda: [*range(SLOTS - 1, 0, -1)])
        """Slots by node."""
        for node in self.kernels:
            self.cluster.put("nodes", {"metadata": {"name": node}})
        for at in range(CHAINS):
            self._add_chain(f"tenant-{at // CHAINS_OF_A_NAMESPACE}", f"chain-{at}")
        self._settle_quietly()

    def agent(self, node: str) -> Agent:
        """A new one, with empty memory."""
        return Agent(self.cluster, node, self.address(node), self.kernels[node])

    def _settle_quietly(self) -> None:
        """The state that the cluster has when nothing has happened for long."""
        chains = [*self.cluster.objects["servicefunctionchains"]]
        for key in chains:
            self.controller.work(key)
        self.clock.run()
        for namespace, name, node, entry in self._entries():
            place = Place("crossconnections", namespace, name, True)
            self.cluster.write(place, {"status": {"nodes": [entry]}}, names.ENTRY_MANAGER + node)
        for key in chains:
            self.controller.work(key)
        self.clock.run()
        self.cluster.forget_news()
        gc.collect()
        self.bare = _resident()
        with _shared_caches():
            for node in self.random.sample([*self.kernels], AGENTS):
                self.agents[node] = self.agent(node)
                self.agents[node].start()
            self.with_agents = _resident()
            for agent in self.agents.values():
                for replica, condition in conditions(agent.reconciler.state):
                    patch = condition.patch(replica.uid, replica.condition, datetime.now(UTC))
                    self.cluster.write(Place("pods", replica.namespace, replica.name, True), patch, "")
            for key in chains:
                self.controller.work(key)
            self.clock.run()
            for agent in self.agents.values():
                agent.quietly()
        self.cluster.forget_news()
        self.controller.muted = False
        self.cluster.listeners.append(self._deliver)

    def _entries(self) -> Iterator[tuple[str, str, str, Json]]:
        """What the agents report, in the shape of `node_status`: namespace, CrossConnection, node, entry."""
        chains = {key: chain_of(obj) for key, obj in self.cluster.objects["servicefunctionchains"].items()}
        pods = {pod["metadata"]["uid"]: pod["metadata"] for pod in self.cluster.objects["pods"].values()}
        for node, kernel in self.kernels.items():
            found: dict[tuple[str, str], Json] = {}
            for link in kernel.links.values():
                pod = pods[link.pod_uid]
                connection, side = chains[pod["namespace"], link.chain].attachments[link.stage, link.interface]
                empty = {"name": node, "address": self.address(node), "upstream": [], "downstream": []}
                entry = found.setdefault((pod["namespace"], connection.name), empty)
                said = {"pod": pod["name"], "uid": link.pod_uid, "state": "serving"}
                entry[side.name.lower()].append(said | {"slot": link.slot, "generation": generation(link.ifindex)})
            for (namespace, name), entry in found.items():
                yield namespace, name, node, entry

    @staticmethod
    def address(node: str) -> str:
        """Of the node's end of the tunnel."""
        at = int(node.partition("-")[2])
        return f"10.0.{at // 250}.{at % 250 + 1}"

    def _deliver(self, kind: str, news: News, before: Json | None, after: Json | None) -> None:
        for agent in self.agents.values():
            if agent.api.wants(kind, news):
                agent.come(self.clock.now + SEND_SECONDS)

    def _add_chain(self, namespace: str, name: str) -> None:
        stages = []
        for number in range(STAGES):
            ends = [{"name": "eth", "addresses": [f"10.1.0.{number + 1}/24"]}]
            inner = [{"name": "left"}, {"name": "right"}]
            stages.append({"name": f"s{number}", "interfaces": inner if 0 < number < STAGES - 1 else ends})
        metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}", "creationTimestamp": CREATED}
        chain = {"metadata": {**metadata, "generation": 1}, "spec": {"stages": stages}}
        self.cluster.put("servicefunctionchains", chain)
        for stage in stages:
            for node in self.random.sample([*self.kernels], REPLICAS):
                self.add_pod(namespace, name, str(stage["name"]), node, ready=True)
                self.add_links(namespace, name, str(stage["name"]), node)

    def add_pod(self, namespace: str, chain: str, stage: str, node: str, *, ready: bool) -> Json:
        """A pod comes to a node; `add_links` gives it its links."""
        self._made[chain, stage] += 1  # type: ignore[index]
        name = f"{chain}-{stage}-{self._made[chain, stage]}"  # type: ignore[index]
        interfaces = ["left", "right"] if stage not in ("s0", f"s{STAGES - 1}") else ["eth"]
        networks = json.dumps([{"name": "sfc", "namespace": namespace, "interface": each} for each in interfaces])
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "creationTimestamp": CREATED,
            "labels": {names.CHAIN_LABEL: chain, names.STAGE_LABEL: stage},
            "annotations": {names.NETWORKS_ANNOTATION: networks, "filling": POD_FILLING},
        }
        status = {"phase": "Running", "conditions": [{"type": "ContainersReady", "status": str(ready)}]}
        pod = {"metadata": metadata, "spec": {"nodeName": node}, "status": status}
        self.cluster.put("pods", pod)
        self.newest = namespace, name
        return pod

    def add_links(self, namespace: str, chain: str, stage: str, node: str) -> None:
        """The links of the pod that was added last."""
        pod = self.cluster.objects["pods"][self.newest]
        for each in json.loads(pod["metadata"]["annotations"][names.NETWORKS_ANNOTATION]):
            slot = self._free[node].pop()
            ifindex = CHOSEN_IFINDEX | SLOTS | slot
            uid = pod["metadata"]["uid"]
            self.kernels[node].links[ifindex] = HostLink(
                ifindex, f"sfc{slot:012x}", slot, uid, each["interface"], "", slot, chain=chain, stage=stage
            )

    def joins(self) -> float:
        """A pod comes, gets its links, and its containers become ready; it stays `newest`."""
        at = self.random.randrange(CHAINS)
        namespace, chain, node = f"tenant-{at // CHAINS_OF_A_NAMESPACE}", f"chain-{at}", self._any_node()
        self.add_pod(namespace, chain, "s2", node, ready=False)
        self.clock.run()
        self.add_links(namespace, chain, "s2", node)
        self.agents[node].links_changed()
        self.clock.run()
        began = self.clock.now
        self._put_pod(self.newest, conditions=[{"type": "ContainersReady", "status": "True"}])
        return self._known_since(began)

    def leaves(self) -> float:
        """The newest pod is deleted; its links go, then the pod itself."""
        key, began = self.newest, self.clock.now
        pod = self._put_pod(key, deletionTimestamp=CREATED)
        took = self._known_since(began)
        uid, node = pod["metadata"]["uid"], pod["spec"]["nodeName"]
        kernel = self.kernels[node]
        kernel.links = {ifindex: link for ifindex, link in kernel.links.items() if link.pod_uid != uid}
        self.agents[node].links_changed()
        self.cluster.delete("pods", key)
        return took

    def changes(self) -> float:
        """A chain lets its sessions be silent for another time."""
        key, began = self.random.choice([*self.cluster.objects["servicefunctionchains"]]), self.clock.now
        known = self.cluster.objects["servicefunctionchains"][key]
        idle = dict.fromkeys((each.name for each in fields(Patience)), 300 + self.random.randrange(1000))
        self.cluster.put("servicefunctionchains", {**known, "spec": {**known["spec"], "drain": {"idle": idle}}})
        return self._known_since(began)

    def dies(self) -> float:
        """A node is removed from the cluster, with its pods. (Its sessions went elsewhere by echoes before.)"""
        began, dead = self.clock.now, self.random.choice([node for node in self.kernels if self._may_die(node)])
        self.agents.pop(dead, None)
        del self.kernels[dead]
        for key, pod in [*self.cluster.objects["pods"].items()]:
            if pod["spec"]["nodeName"] == dead:
                self.cluster.delete("pods", key)
        self.cluster.delete("nodes", ("", dead))
        return self._known_since(began)

    def restarts(self) -> float:
        """An agent begins anew, with the maps of its predecessor."""
        began, node = self.clock.now, self._any_node()
        self.agents[node] = self.agent(node)
        self.agents[node].restarted()
        self.clock.run()
        return self.agents[node].busy_until - began

    def measured(self, event: str, happens: Callable[[], float]) -> tuple[dict[str, float], Traffic]:
        """What an event has cost once nothing is left to do."""
        for agent in self.agents.values():
            agent.cpu, agent.kernel.written_at = 0.0, 0.0
        self.cluster.traffic = traffic = Traffic()
        took = happens()
        self.clock.run()
        self.cluster.forget_news()
        used, share = [agent.cpu * 1000 for agent in self.agents.values()], NODES / AGENTS
        for kind in {*traffic.told} - {"pods"}:  # what only one node watches was told as often as it would be
            traffic.told[kind], traffic.sent[kind] = int(traffic.told[kind] * share), int(traffic.sent[kind] * share)
        values = (
            took * 1000,
            float(sum(traffic.writes.values())),
            float(sum(traffic.told.values())),
            sum(traffic.sent.values()) / 1e6,
            traffic.listed / 1e6,
            sum(used) * share if event != RESTARTS else sum(used),
            max(used),
        )
        return dict(zip(UNITS, values, strict=True)), traffic

    def described(self) -> tuple[dict[str, float], list[str]]:
        """Sizes, and in words."""
        objects = self.cluster.objects["crossconnections"].values()
        size = statistics.median(len(News(0, "MODIFIED", obj).line) for obj in objects)
        far = [len(agent.kernel.plane.far) for agent in self.agents.values()]
        peers = statistics.median(len(agent.kernel.peers) for agent in self.agents.values())
        memory = (self.with_agents - self.bare) / AGENTS
        notes = [
            f"{NODES} nodes, {CHAINS} chains of {STAGES} stages of {REPLICAS} replicas, at random on the nodes. "
            f"{AGENTS} agents are run; what the others cost is computed from these.",
            f"A CrossConnection takes {size / 1000:.1f} kB on the wire; an agent names {statistics.median(far):.0f} "
            f"far links (at most {max(far)}) of {peers:.0f} nodes.",
            f"Memory: {memory:.1f} MB for each agent, without its interpreter and its libraries.",
        ]
        return {
            "memory_mb": memory,
            "far_links": statistics.median(far),
            "connection_bytes": size,
            "peers": peers,
        }, notes

    def _any_node(self) -> str:
        return self.random.choice([*self.agents])

    def _may_die(self, node: str) -> bool:
        return node not in self.agents or AGENTS == NODES

    def _known_since(self, began: float) -> float:
        """Seconds from then until the last node's maps showed it."""
        self.clock.run()
        return max(0.0, *(agent.kernel.written_at - began for agent in self.agents.values()))

    def _put_pod(self, key: Key, conditions: Sequence[Json] = (), **metadata: Any) -> Json:
        pod = self.cluster.objects["pods"][key]
        status = dict(pod["status"])
        kept = [c for c in status["conditions"] if not conditions or c["type"] == names.WIRED_CONDITION]
        status["conditions"] = [*conditions, *kept]
        self.cluster.put("pods", {**pod, "metadata": {**pod["metadata"], **metadata}, "status": status})
        return pod


@contextmanager
def _shared_caches() -> Iterator[None]:
    """Tables that many agents make are made once: only for what is not measured."""
    owners = maglev._owners
    maglev._owners = dict_cached(owners.__wrapped__)  # type: ignore[assignment]
    yield
    maglev._owners = owners


def dict_cached(make: Callable[[tuple[str, ...]], Any]) -> Callable[[tuple[str, ...]], Any]:
    """A cache without bounds."""
    known: dict[tuple[str, ...], Any] = {}

    def cached(identities: tuple[str, ...]) -> Any:
        if identities not in known:
            known[identities] = make(identities)
        return known[identities]

    return cached


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    """ROUNDS times each event."""
    logging.disable(logging.CRITICAL)
    described = machine()
    gc.disable()  # of 200 agents at once; an agent's own objects are frozen, too
    began = time.monotonic()
    fleet = Fleet()
    gc.freeze()
    used = time.process_time()
    print(f"the fleet stands after {time.monotonic() - began:.0f} s, {used:.0f} s of processor", flush=True)
    events = {JOINS: fleet.joins, LEAVES: fleet.leaves, CHANGES: fleet.changes, DIES: fleet.dies}
    events[RESTARTS] = fleet.restarts
    figures: dict[str, dict[str, list[float]]] = {unit: defaultdict(list) for unit in UNITS}
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(ROUNDS):
        for event, happens in events.items():
            found, traffic = fleet.measured(event, happens)
            for unit, value in found.items():
                figures[unit][event].append(value)
            print(event, {unit: round(value, 1) for unit, value in found.items()}, flush=True)
            by_kind[event].append({"writes": traffic.writes, "told": traffic.told, "bytes": traffic.sent})
        print(f"round {number + 1} of {ROUNDS}", flush=True)
    more, notes = fleet.described()
    Report("fleet", described, figures, {}, {}, notes, {"by_kind": by_kind, **more}).publish()


if __name__ == "__main__":
    main()
