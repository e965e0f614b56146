"""What a hop costs between real network stacks: for a TCP connection, small packets, and one packet at a time.

The whole way of a packet, from the sender into the receiver's stack, runs on the sender's CPU, in the softirq that
sending raises. The receiving program alone has the other CPU. So no packet waits in a queue or is lost on the way, and
the rate of small packets is the inverse of one packet's cost: the sending, the way, the receiving stack. The sender is
a loop around sendmmsg on a packet socket that bypasses queueing.

Both ends of a TCP connection share one CPU, so its rate is the inverse of one byte's cost. On two CPUs each end waits
for the other at times, and the same way gives 8 or 18 Gbit/s from one second to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from bcc import BPF

from benchmarks.bpffs import private_bpffs
from benchmarks.compiler import compiled
from benchmarks.lab import JOINS, PREFIX, SENDER_ALONE, Lab, Programs, order
from benchmarks.report import QUICK, Report, Rounds, Spread, Target, machine, ratio
from controller.node.kernel.datapath import Datapath
from tests.hash_key import HASH_KEY
from tests.netns.node import remove_leftovers

HERE = Path(__file__).resolve().parent
ROUNDS = 3 if QUICK else 7
TCP_BYTES = 150_000_000
PASSES = 1 if QUICK else 5
"""Measurements of each kind a round. They are short, so that all ways run while the machine keeps its pace."""
FLOOD_SECONDS = 0.1
PING_SECONDS = 0.05
HOPS = (1, 3)
TARGETS = {
    "tcp.ours/veth": Target(0.97, at_most=False),
    "tcp.ours/bridge": Target(1.05, at_most=False),
    "pps.ours/veth": Target(0.93, at_most=False),
    "pps.ours/bridge": Target(1.3, at_most=False),
}
UNITS = {
    "tcp": "TCP, Gbit/s",
    "pps": "64-byte packets, thousands a second",
    "p50": "round trip, µs, median",
    "p90": "round trip, µs, 90th percentile",
    "p99": "round trip, µs, 99th percentile",
    "hop": "round trip, µs a hop above veth",
}
NOTES = (
    "Ratios without a number of hops are those of one hop. A round trip crosses each hop twice.",
    "Both ends of a TCP connection share one CPU.",
    "For small packets, sender, way and receiving stack share one CPU; the receiving program has the other. Packets "
    "are counted at the receiving socket. The sender alone, whose frames are dropped where they reach the node, shows "
    "how much of the time is its own.",
)

Figures = dict[str, dict[str, list[float]]]
"""Rounds, by kind of figure (UNITS) and by lab."""


def main() -> None:
    """ROUNDS times PASSES times all labs, in changing order."""
    described = machine()
    remove_leftovers(PREFIX)
    figures: Figures = {kind: {_name(hops, join): [] for hops in HOPS for join in JOINS} for kind in UNITS}
    figures["pps"][SENDER_ALONE] = []
    with ExitStack() as cleanup:
        labs = dict(_labs(cleanup))
        sender = labs.pop(SENDER_ALONE)
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", flush=True)
            for each in range(PASSES):
                for name in order(list(labs), number * PASSES + each):
                    figures["tcp"][name].append(labs[name].tcp(TCP_BYTES))
                for name in order(list(labs), number * PASSES + each):
                    _measure_packets(labs[name], name, figures)
                flood = sender.flood(FLOOD_SECONDS)
                figures["pps"][SENDER_ALONE].append(flood.sent / flood.seconds / 1000)
    figures["hop"] = dict(_added(figures["p50"]))
    rounds: Mapping[str, Rounds] = {UNITS[kind]: each for kind, each in figures.items()}
    Report("forwarding", described, rounds, dict(_ratios(figures)), TARGETS, NOTES).publish()


def _labs(cleanup: ExitStack) -> Iterator[tuple[str, Lab]]:
    bpffs = cleanup.enter_context(private_bpffs())
    built = compiled("traffic.c")
    datapath = Datapath.open(bpffs / "v1", hash_key=HASH_KEY)
    datapath.shortcut.open()
    cleanup.callback(datapath.close)
    cleanup.callback(datapath.unpin)
    plain = BPF(src_file=bytes(HERE / "redirect.c"))
    cleanup.callback(plain.cleanup)
    programs = Programs(datapath, plain)
    for hops in HOPS:
        for join in JOINS:
            yield _name(hops, join), Lab(join, hops, programs, built, cleanup)
    yield SENDER_ALONE, Lab(SENDER_ALONE, 1, programs, built, cleanup)


def _measure_packets(lab: Lab, name: str, figures: Figures) -> None:
    flood = lab.flood(FLOOD_SECONDS)
    figures["pps"][name].append(flood.arrived / flood.seconds / 1000)
    ping = lab.ping(PING_SECONDS)
    for kind, value in (("p50", ping.p50), ("p90", ping.p90), ("p99", ping.p99)):
        figures[kind][name].append(value)


def _added(round_trips: Rounds) -> Iterator[tuple[str, list[float]]]:
    for hops in HOPS:
        veth = round_trips[_name(hops, "veth")]
        for join in JOINS:
            if join != "veth":
                own = round_trips[_name(hops, join)]
                yield _name(hops, join), [(a - b) / hops for a, b in zip(own, veth, strict=True)]


def _ratios(figures: Figures) -> Iterator[tuple[str, Spread]]:
    for hops in HOPS:
        for kind in ("tcp", "pps"):
            for join in JOINS:
                if join != "ours":
                    key = f"{kind}.ours/{join}" if hops == 1 else f"{kind}{hops}.ours/{join}"
                    yield key, ratio(figures[kind], _name(hops, "ours"), _name(hops, join))
    yield "pps.sender alone/veth", ratio(figures["pps"], SENDER_ALONE, _name(1, "veth"))


def _name(hops: int, join: str) -> str:
    return f"{hops} {'hop' if hops == 1 else 'hops'}, {join}"
