"""The data path's counters for Prometheus, read from the maps at each scrape. No label per session."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.node.plane.hearing import Hearing
from controller.node.plane.model import LinkState, Traffic
from controller.node.plane.plan import State

ECHO = Histogram(
    "sfc_echo_seconds",
    "Round trips of echoes to other nodes, through the tunnel",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1),
)
MOST_SILENT_SHOWN = 50
LINK_LABELS = ("namespace", "chain", "stage", "pod", "interface")
FAR_SLOT = 0
"""Where the program counts the sessions of far links: their ends have no slot of this node (bpf/tunnel.h, `is_far`)."""


class CounterReader(Protocol):
    """The counters in the data path's maps. Each call reads them."""

    def traffic(self, slots: Collection[int]) -> Mapping[int, Traffic]:
        """By slot, one for each of `slots`."""

    def drops(self) -> Mapping[tuple[int, str], int]:
        """(connection number, verdict) → frames that were dropped."""

    def remarks(self) -> Mapping[tuple[int, str], int]:
        """(connection number, verdict) → frames that were carried, but are remarkable."""

    def remembered(self) -> int:
        """Sessions in the session table."""

    def tunnel(self) -> Traffic:
        """All frames of the tunnel to other nodes. Of the traffic, only packets and bytes are counted."""

    def evicted(self) -> Mapping[int, int]:
        """By connection number: live sessions that gave way to others because the table was full."""


class DatapathCollector(Collector):
    """To be registered once; the registry calls `collect` in the threads that serve scrapes."""

    def __init__(
        self,
        counters: CounterReader,
        state: Callable[[], State],
        hearing: Callable[[], Hearing] = Hearing,
        names: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`names`: of the other nodes, by address. `clock`: seconds."""
        self._counters = counters
        self._state = state
        self._hearing = hearing
        self._names = names
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Nothing: registration must not read maps."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Counters whose link or cross-connection is not known any more are left out."""
        state = self._state()
        yield from _links(state, self._counters.traffic([slot for slot, _ in _labelled(state)]))
        yield _far(self._counters.traffic([FAR_SLOT])[FAR_SLOT])
        yield _by_verdict(state, "sfc_dropped_packets", "Frames dropped", self._counters.drops())
        yield _by_verdict(state, "sfc_remarkable_packets", "Frames carried, but remarkable", self._counters.remarks())
        yield _states(state)
        yield GaugeMetricFamily("sfc_sessions", "Sessions remembered, active or not", self._counters.remembered())
        yield _evicted(state, self._counters.evicted())
        yield from _tunnel(self._counters.tunnel())
        yield from _peers(self._hearing(), self._names, self._clock())


def _links(state: State, traffic: Mapping[int, Traffic]) -> Iterator[Metric]:
    packets = CounterMetricFamily("sfc_link_packets", "Frames carried", labels=(*LINK_LABELS, "direction"))
    octets = CounterMetricFamily("sfc_link_bytes", "Bytes carried", labels=(*LINK_LABELS, "direction"))
    sessions = CounterMetricFamily(
        "sfc_link_sessions",
        "Sessions the link took part in: opened by its replica, or its replica chosen",
        labels=LINK_LABELS,
    )
    for slot, labels in _labelled(state):
        counted = traffic[slot]
        packets.add_metric((*labels, "received"), counted.received_packets)
        packets.add_metric((*labels, "sent"), counted.sent_packets)
        octets.add_metric((*labels, "received"), counted.received_bytes)
        octets.add_metric((*labels, "sent"), counted.sent_bytes)
        sessions.add_metric(labels, counted.sessions_opened + counted.sessions_chosen)
    yield from (packets, octets, sessions)


def _far(counted: Traffic) -> Metric:
    metric = CounterMetricFamily(
        "sfc_far_sessions",
        "Sessions between a replica here and one of another node: sent there, or received from there",
        labels=("direction",),
    )
    metric.add_metric(("sent",), counted.sessions_chosen)
    metric.add_metric(("received",), counted.sessions_opened)
    return metric


def _by_verdict(state: State, name: str, about: str, counts: Mapping[tuple[int, str], int]) -> Metric:
    metric = CounterMetricFamily(name, f"{about}, by verdict", labels=("namespace", "cross_connection", "verdict"))
    named = {number: (each.namespace, each.connection) for number, each in state.plan.numbers.named.items()}
    named[0] = ("", "")  # from links that are not wired, so in no cross-connection
    for (number, verdict), frames in counts.items():
        if number in named:
            metric.add_metric((*named[number], verdict), frames)
    return metric


def _evicted(state: State, counts: Mapping[int, int]) -> Metric:
    metric = CounterMetricFamily(
        "sfc_evicted_sessions",
        "Live sessions that gave way because the table was full",
        labels=("namespace", "cross_connection"),
    )
    for number, named in state.plan.numbers.named.items():
        metric.add_metric((named.namespace, named.connection), counts.get(number, 0))
    return metric


def _tunnel(counted: Traffic) -> Iterator[Metric]:
    packets = CounterMetricFamily("sfc_tunnel_packets", "Frames of the tunnel", labels=("direction",))
    octets = CounterMetricFamily("sfc_tunnel_bytes", "Bytes of these frames", labels=("direction",))
    packets.add_metric(("received",), counted.received_packets)
    packets.add_metric(("sent",), counted.sent_packets)
    octets.add_metric(("received",), counted.received_bytes)
    octets.add_metric(("sent",), counted.sent_bytes)
    yield from (packets, octets)


def _peers(hearing: Hearing, names: Callable[[], Mapping[str, str]], now: float) -> Iterator[Metric]:
    """Only silent nodes have a series of their own, and only so many of them."""
    foreign = sum(silent.version is not None for silent in hearing.silent.values())
    peers = GaugeMetricFamily("sfc_peers", "Nodes with replicas of this node's chains, by state", labels=("state",))
    peers.add_metric(("heard",), len(hearing.peers) - len(hearing.silent))
    peers.add_metric(("silent",), len(hearing.silent) - foreign)
    peers.add_metric(("foreign",), foreign)
    silence = GaugeMetricFamily(
        "sfc_peer_silent_seconds",
        "How long ago a node that is silent or foreign answered last",
        labels=("peer", "address"),
    )
    named = names() if hearing.silent else {}
    for address, silent in sorted(hearing.silent.items(), key=lambda found: found[1].since)[:MOST_SILENT_SHOWN]:
        silence.add_metric((named.get(address, ""), address), now - silent.since)
    yield from (peers, silence)
    yield GaugeMetricFamily("sfc_cut_off", "1 while this node holds still", hearing.cut_off)


def _states(state: State) -> Metric:
    links = GaugeMetricFamily("sfc_links", "Links of this node by state", labels=("state",))
    for one in LinkState:
        count = sum(entry.state == one for entry in state.plane.links.values())
        links.add_metric((one.name.lower(),), count)
    return links


def _labelled(state: State) -> Iterator[tuple[int, tuple[str, ...]]]:
    replicas = state.cluster.replicas if state.cluster else {}
    for uid, links in state.links.items():
        if replica := replicas.get(uid):
            for link in links:
                yield link.slot, (replica.namespace, replica.chain, replica.stage, replica.name, link.interface)
