"""Nodes that go without a word: one is cut off for a while, or loses its power, and comes back.

What was sent to a replica there is lost until the other nodes steer away. Nothing else may be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import cluster, loads
from benchmarks.account import LAST_SECONDS, Play, Window, accounted
from benchmarks.ends import carrier
from benchmarks.happenings import Chain, name, stamp
from benchmarks.report import QUICK

CUT_OFF, POWER_CUT = "node cut off", "power of a node cut"
TIMES = {CUT_OFF: 1 if QUICK else 5, POWER_CUT: 3 if QUICK else 20}
AWAY_SECONDS, DRAIN_SECONDS = 10.0, 120.0
STEERED_MS = 1500.0
"""So soon, by the 99th percentile, nothing is sent any more to a node that went."""


def went(chain: Chain, seed: int) -> dict[str, Any]:
    """The last node goes and comes back, TIMES; what was lost of the replicas there and of others, each time."""
    outages: list[dict[str, Any]] = []
    chain.roll()  # spreads the replicas anew: those of the last node may have left
    cluster.until(chain.quiet, "all drains end", DRAIN_SECONDS)
    with loads.running(chain.process("source"), chain.process("sink"), seed) as running:
        play = Play(running.phase)
        play.act("nothing", lambda: time.sleep(LAST_SECONDS))
        for kind, times in TIMES.items():
            for _ in range(times):
                play.act(kind, partial(_happen, outages, chain, kind))
                play.act("nothing", lambda: time.sleep(LAST_SECONDS))
    result = accounted(running, play.windows)
    phases = {number + 2: window for number, window in enumerate(play.windows)}
    seen = judged(outages, running.datagrams, phases)
    steered = sorted(each["steered_ms"] for each in seen)
    return {
        "outages": seen,
        "steered_p99_ms": steered[math.ceil(0.99 * len(steered)) - 1],
        "lost_of_others": sum(each["lost_of_others"] for each in seen),
        "lost_on_return": sum(each["lost_on_return"] for each in seen),
        "lost_without_outage": sum(each["lost"] for each in result["events"] if each["kind"] == "nothing"),
        "events": result["events"],
        "totals": result["totals"],
        "unfinished": play.unfinished,
        "lost": result["lost"],
        "moves": result["moves"],
        "broken": result["broken"],
    }


def _happen(outages: list[dict[str, Any]], chain: Chain, kind: str) -> None:
    node = chain.nodes[-1]
    there = chain.functions_on(node)
    outages.append({"kind": kind, "node": node, "pods": [*map(name, there)], "stamps": [*map(stamp, there)]})
    (chain.unplug if kind == CUT_OFF else chain.cut_power)(node, AWAY_SECONDS)


def judged(
    outages: Sequence[Mapping[str, Any]], datagrams: Mapping[str, Any], phases: Mapping[int, Window]
) -> list[dict[str, Any]]:
    numbers = [number for number, window in phases.items() if window.kind in TIMES]
    found = []
    for outage, number in zip(outages, numbers, strict=True):
        lost = [each for each in datagrams["lost"] if each["phase"] == number]
        moves = [each for each in datagrams["moves"] if each["phase"] == number]
        # A flow that began meanwhile shows no replica before the one that it was steered to.
        known = {each["flow"] for each in lost if each["number"] == 0}
        begun = [each for each in lost if each["flow"] in known]
        others = [
            each
            for each in lost
            if each["flow"] not in known and carrier(each, datagrams["moves"]) not in outage["stamps"]
        ]
        times = sorted(each["at"] / 1e6 for each in lost)
        away = [at for at in times if at - times[0] < AWAY_SECONDS * 1000]
        found.append(
            {
                **outage,
                "seconds": round(phases[number].seconds, 1),
                "lost": len(lost),
                "lost_of_new_flows": len(begun),
                "lost_of_others": len(others),
                "moved": len(moves),
                "moved_of_others": sum(move["from"] not in outage["stamps"] for move in moves),
                "lost_on_return": len(times) - len(away),
                "steered_ms": round(away[-1] - away[0], 1) if away else 0.0,
            }
        )
    return found


def complaints(result: Mapping[str, Any]) -> list[str]:
    """What must hold and does not, in words."""
    counts = ("lost_of_others", "lost_on_return", "lost_without_outage")
    found = [*result["unfinished"], *(f"{result[count]} datagrams: {count}" for count in counts if result[count])]
    if result["steered_p99_ms"] > STEERED_MS:
        found.append(f"steered away after {result['steered_p99_ms']:.0f} ms (99th percentile), not {STEERED_MS:.0f}")
    if not all(each["lost"] for each in result["outages"]):
        found.append("an outage lost nothing: no traffic went to the node")
    return found


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of the outages."""
    columns = ("lost", "lost_of_new_flows", "lost_of_others", "lost_on_return", "moved", "moved_of_others")
    heads = ("seconds", "lost", "of new flows", "of others", "on return", "moved", "of others", "steered away")
    print(f"{'Nodes that went without a word':<34}" + "".join(f"{head:>14}" for head in heads))
    for each in result["outages"]:
        cells = [
            f"{each['seconds']:.1f}",
            *(f"{each[column]:,}" for column in columns),
            f"{each['steered_ms']:,.0f} ms",
        ]
        print(f"{each['kind']:<34}" + "".join(f"{cell:>14}" for cell in cells))
    print(
        f"steered away, 99th percentile of {len(result['outages'])}: {result['steered_p99_ms']:,.0f} ms; "
        f"{result['totals']['broken']} transfers broken\n"
    )
