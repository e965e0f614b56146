"""Does traffic survive everything that happens to its chain? Measured on a real Kubernetes.

Numbered datagrams, long TCP transfers and short connections run through scale-outs and scale-ins, rolling updates,
kills and rollouts of the node agent, restarts of the webhook, and minutes without API server. Every replica of the
function stage lets a TCP connection pass only if it saw the connection begin, so a moved connection breaks. A first
period without events shows how much the machine and the generators themselves lose. Last, and counted separately, come
unannounced ends of replicas, and a drain whose deadline is exceeded on purpose.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cluster, happenings, loads
from benchmarks.happenings import Chain, Pod
from benchmarks.report import QUICK, machine, save
from benchmarks.transfers import PATIENCE_SECONDS
from kube.api import ApiError

MANIFEST = Path(__file__).with_suffix(".yaml")
TENTH = 10 if QUICK else 1
SCALINGS = 100 // TENTH
ROLLING_UPDATES = max(1, 5 // TENTH)
KILLS = 20 // TENTH
API_SERVER_AWAY_SECONDS = 120.0 / TENTH
CONTROL_SECONDS = 20.0 if QUICK else 60.0
DRAIN_SECONDS = 120.0
LAST_SECONDS = 3.0
TRANSITION_SECONDS = 20.0
EXCEEDED_SECONDS = 2
SEED = 1

COUNTS = ("sent", "received", "lost", "duplicated", "reordered", "moved", "overflowed")

Event = tuple[str, Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Window:
    """The time from an event's beginning to the next one's. Traffic sent in that time counts for the event."""

    kind: str
    began: float
    """Seconds since 1970."""
    seconds: float
    """The event's own duration."""


class Play:
    """Runs events, one after the other, each in a window of its own."""

    def __init__(self, begin_window: Callable[[], None]) -> None:
        self._begin_window = begin_window
        self.windows: list[Window] = []
        self.unfinished: list[str] = []
        """Errors of events. An event that fails does not end the benchmark: what was counted so far is worth more."""

    def act(self, kind: str, event: Callable[[], None]) -> None:
        """Begins a window and runs the event in it."""
        self._begin_window()
        began = time.time()
        try:
            event()
        except (ApiError, RuntimeError, LookupError, OSError) as error:
            self.unfinished.append(f"{kind}, event {len(self.windows) + 1}: {error}")
        self.windows.append(Window(kind, began, time.time() - began))
        print(f"{kind:<44}{self.windows[-1].seconds:8.1f} s", flush=True)


def main() -> None:
    """Brings the cluster up and measures; fails when an announced event lost a packet or broke a session."""
    with cluster.running(MANIFEST, happenings.NAMESPACE):
        happenings.build_next_image()
        result = measure(Chain())
    totals = result["totals"]
    if totals["lost"] or totals["broken"] or not totals["sent"]:
        sys.exit("packets were lost or sessions broke, see above")
    if result["unfinished"]:
        sys.exit("events did not end: " + "; ".join(result["unfinished"]))


def measure(chain: Chain) -> dict[str, Any]:
    """Runs all events, prints the accounts and writes build/bench/events.json; the account of the announced events."""
    described = machine()
    chain.settle()
    announced = _played(chain, announced_events(chain))
    show(announced)
    unannounced = ungraceful(chain)
    ended = {"load_after": os.getloadavg()[0]}
    content: dict[str, Any] = {
        "benchmark": "events",
        "quick": QUICK,
        "machine": {**described, **ended},
        **announced,
        "unannounced": unannounced,
    }
    path = save("events", content)
    show_ends(unannounced)
    print(f"{path}: every event, everything lost")
    return announced


def announced_events(chain: Chain) -> list[Event]:
    """The events in order. Agent kills and the loss of the API server follow a scale-in, while its replicas drain."""
    base = chain.replicas

    def scaled(by: int) -> Event:
        kind = "scale-out" if by > 0 else "scale-in"
        return kind, lambda: chain.scale(chain.replicas + by)

    events: list[Event] = [("nothing", lambda: time.sleep(CONTROL_SECONDS))]
    events += [scaled(by) for _ in range(SCALINGS // 2) for by in (1, 1, -1, -1)]
    events += [("rolling update", chain.roll)] * ROLLING_UPDATES
    for number in range(KILLS):
        if number % 5 == 0:
            events += [("scale-out for a kill", lambda: chain.scale(base + 1))]
            events += [("scale-in for a kill", lambda: chain.scale(base))]
        events.append(("agent killed", chain.kill_agent))
    events += [("agent rollout", chain.roll_agent)]
    events += [scaled(by) for by in (1, 1)]
    events += [("agent rollout, other map layout", lambda: chain.roll_agent(happenings.NEXT_IMAGE))]
    events += [scaled(by) for by in (-1, -1)]
    events += [("agent rollout, layout as before", lambda: chain.roll_agent(happenings.IMAGE))]
    events += [("webhook restart", chain.restart_webhook)]
    events += [scaled(1), scaled(-1)]
    events += [("no API server", lambda: chain.lose_api_server(API_SERVER_AWAY_SECONDS))]
    return [*events, ("drains end", lambda: cluster.until(chain.quiet, "all drains end", DRAIN_SECONDS))]


def _played(chain: Chain, events: Sequence[Event]) -> dict[str, Any]:
    with loads.running(chain.process("source"), chain.process("sink"), SEED) as running:
        play = Play(running.phase)
        for kind, event in events:
            play.act(kind, event)
        time.sleep(LAST_SECONDS)
    return {**accounted(running, play.windows), "unfinished": play.unfinished}


def accounted(running: loads.Loads, windows: Sequence[Window]) -> dict[str, Any]:
    """The account of all traffic, in total and by event.

    The phases before the first window belong to the start of the generators; they count in the totals only.
    """
    phases = running.datagrams["phases"][-len(windows) :]
    broken = _broken_by_window(running.transfers, windows)
    accounts: list[dict[str, Any]] = [
        {
            "kind": window.kind,
            "began": window.began,
            "seconds": round(window.seconds, 3),
            **_counts(phase),
            "broken": broken[number],
        }
        for number, (window, phase) in enumerate(zip(windows, phases, strict=True))
    ]
    warm_up = [_counts(phase) for phase in running.datagrams["phases"][: -len(windows)]]
    totals = {count: sum(account[count] for account in (*accounts, *warm_up)) for count in COUNTS}
    seconds = (running.datagrams["ended"] - running.datagrams["phases"][0]["began"]) / 1e9
    return {
        "totals": {
            **totals,
            "lost_by_receiving_socket": totals["overflowed"],
            "lost_by_backlog_at_most": running.dropped_by_backlog,
            "broken": len(_broken(running.transfers)),
            "transfers": running.transfers["long"]["completed"],
            "short_connections": running.transfers["short"]["completed"],
            "blocks": sum(running.transfers[kind]["blocks"] for kind in ("long", "short")),
            "seconds": round(seconds, 1),
            "datagrams_per_second": round(totals["sent"] / seconds),
            "unstamped": running.datagrams["unstamped"],
        },
        "events": accounts,
        "lost": running.datagrams["lost"][:10_000],
        "moves": running.datagrams["moves"][:10_000],
        "broken": _broken(running.transfers),
    }


def _counts(phase: Mapping[str, int]) -> dict[str, int]:
    return {count: phase["sent"] - phase["received"] if count == "lost" else phase[count] for count in COUNTS}


def _broken(transfers: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for kind in ("long", "short") for each in transfers[kind]["broken"]]


def _broken_by_window(transfers: Mapping[str, Any], windows: Sequence[Window]) -> Counter[int]:
    """Broken transfers, by the index of the window in which each broke."""
    began = [window.began for window in windows]
    return Counter(max(0, bisect_right(began, _broke_at(each)) - 1) for each in _broken(transfers))


def _broke_at(transfer: Mapping[str, Any]) -> float:
    """Seconds since 1970. A silent transfer broke before its client gave it up."""
    return float(transfer["ended"] / 1e9) - (PATIENCE_SECONDS if transfer["why"] == "silent" else 0.0)


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of the events, by kind."""
    kinds = list(dict.fromkeys(account["kind"] for account in result["events"]))
    columns = (*COUNTS[:-1], "broken")
    print(f"\n{'':<34}{'times':>6}{'median s':>10}" + "".join(f"{column:>12}" for column in columns))
    for kind in kinds:
        accounts = [account for account in result["events"] if account["kind"] == kind]
        seconds = sorted(account["seconds"] for account in accounts)[len(accounts) // 2]
        sums = "".join(f"{sum(account[column] for account in accounts):>12,}" for column in columns)
        print(f"{kind:<34}{len(accounts):>6}{seconds:>10.1f}{sums}")
    totals = result["totals"]
    sums = "".join(f"{totals[column]:>12,}" for column in columns)
    print(f"{'in all':<34}{len(result['events']):>6}{totals['seconds']:>10.1f}{sums}")
    print(
        f"\n{totals['datagrams_per_second']:,} datagrams a second; of those lost, {totals['lost_by_receiving_socket']} "
        f"by the receiving socket and at most {totals['lost_by_backlog_at_most']} by this machine's own queues\n"
        f"{totals['transfers']:,} long transfers and {totals['short_connections']:,} short connections, "
        f"{totals['blocks']:,} blocks verified, {totals['broken']} broken\n"
    )


# Unannounced ends


def ungraceful(chain: Chain) -> dict[str, Any]:
    """One end of each kind: what was lost, and how long packets still went to the dead replica."""
    ends: list[dict[str, Any]] = []
    with loads.running(chain.process("source"), chain.process("sink"), SEED) as running:
        play = Play(running.phase)
        play.act("nothing", lambda: time.sleep(LAST_SECONDS))
        for kind in ENDS:
            play.act(kind, partial(_append_end, ends, chain, kind))
        play.act("deadline exceeded on purpose", lambda: ends.append(_exceed_deadline(chain)))
        time.sleep(LAST_SECONDS)
    result = accounted(running, play.windows)
    phases = {number + 2: window.kind for number, window in enumerate(play.windows)}
    return {
        "ends": [_judged(end, running.datagrams, phases, result) for end in ends],
        "events": result["events"],
        "totals": result["totals"],
        "unfinished": play.unfinished,
        "lost": result["lost"],
        "moves": result["moves"],
        "broken": result["broken"],
    }


def _append_end(ends: list[dict[str, Any]], chain: Chain, kind: str) -> None:
    ends.append(ended(chain, kind))


def _process_killed(chain: Chain, victim: Pod) -> float:
    return happenings.kill(happenings.container(victim))


def _out_of_memory(chain: Chain, victim: Pod) -> float:
    return happenings.kill(happenings.container(victim), signal.SIGUSR1)


def _force_deleted(chain: Chain, victim: Pod) -> float:
    at = time.time()
    chain.delete(victim, by_force=True)
    return at


def _sandbox_killed(chain: Chain, victim: Pod) -> float:
    return happenings.kill(happenings.sandbox(victim))


def _removed_by_hand(chain: Chain, victim: Pod) -> float:
    container = happenings.container(victim)
    at = happenings.kill(container)
    attempts = f"for _ in 1 2 3 4 5 6 7 8 9 10; do ctr -n k8s.io containers rm {container} && break; sleep 0.1; done"
    cluster.in_node("sh", "-c", f"({attempts}) 2>/dev/null || :")  # the kubelet may be faster
    return at


def _agent_absent(chain: Chain, victim: Pod) -> float:
    """The agent dies just before the replica's sandbox."""
    sandbox = happenings.sandbox(victim)
    happenings.kill(happenings.container(chain.agent(), "node"))
    return happenings.kill(sandbox)


ENDS: Mapping[str, Callable[[Chain, Pod], float]] = {
    "process killed": _process_killed,
    "out of memory": _out_of_memory,
    "deleted by force": _force_deleted,
    "sandbox killed": _sandbox_killed,
    "container removed by hand": _removed_by_hand,
    "sandbox killed, no agent": _agent_absent,
}


def ended(chain: Chain, kind: str, which: float = 0.0) -> dict[str, Any]:
    """Ends one replica in that way; returns when the agent has logged it and the chain is settled again.

    `which` chooses the replica by age, from 0, the oldest, to just below 1. A replica that survives is deleted
    afterwards, because the kubelet delays the restart of a container that ends repeatedly.
    """
    chain.settle()
    functions = chain.functions()
    victim = functions[int(which * len(functions))]
    pod = f"{happenings.NAMESPACE}/{happenings.name(victim)}"
    at = ENDS[kind](chain, victim)
    transitions: list[dict[str, Any]] = []

    def noticed() -> bool:
        known = {"replica steered away from", "replica out of all targets"}
        transitions[:] = [
            line for line in chain.said(pod=pod) if line["message"] in known and happenings.moment(line) > at
        ]
        return bool(transitions)

    with suppress(RuntimeError):  # then the result's cause says so
        cluster.until(noticed, f"the agent logs a transition of {pod}", TRANSITION_SECONDS)
    time.sleep(LAST_SECONDS)
    chain.settle()
    cluster.until(lambda: happenings.has(chain.agent(), "Ready"), "the agent is Ready")
    if happenings.name(victim) in map(happenings.name, chain.functions()):
        chain.delete(victim, by_force=False)
        chain.settle()
    transition = transitions[0] if transitions else {}
    return {
        "kind": kind,
        "pod": pod,
        "stamp": happenings.stamp(victim),
        "at": at,
        "cause": transition.get("cause", f"no transition logged within {TRANSITION_SECONDS:.0f} s"),
        "reaction_ms": transition.get("after_ms"),
        "out_ms": round((happenings.moment(transition) - at) * 1000, 1) if transition else None,
    }


def _exceed_deadline(chain: Chain) -> dict[str, Any]:
    """Deletes a replica under a deadline shorter than transfers and flows, so that the rest moves at the deadline."""
    chain.set_deadline(EXCEEDED_SECONDS)
    chain.roll()
    victim = chain.functions()[0]
    chain.delete(victim, by_force=False)
    at = time.time()
    time.sleep(EXCEEDED_SECONDS + LAST_SECONDS)
    chain.settle()
    stamp = happenings.stamp(victim)
    return {"kind": "deadline exceeded on purpose", "stamp": stamp, "at": at, "reaction_ms": None, "out_ms": None}


def _judged(
    end: Mapping[str, Any], datagrams: Mapping[str, Any], phases: Mapping[int, str], result: Mapping[str, Any]
) -> dict[str, Any]:
    lost = [each for each in datagrams["lost"] if phases.get(each["phase"]) == end["kind"]]
    mine = [each for each in lost if _carrier(each, datagrams["moves"]) == end["stamp"]]
    moves = [each for each in datagrams["moves"] if phases.get(each["phase"]) == end["kind"]]
    began = [
        span for span in datagrams["spans"] if span["replica"] == end["stamp"] and span["first"] <= end["at"] * 1e9
    ]
    last = [span["last"] for span in began[-1:]] + [each["at"] for each in mine]
    account = next(each for each in result["events"] if each["kind"] == end["kind"])
    return {
        **end,
        "lost": len(lost),
        "lost_of_others": len(lost) - len(mine),
        "moved": len(moves),
        "moved_of_others": sum(move["from"] != end["stamp"] for move in moves),
        "last_packet_ms": round(max(last) / 1e6 - end["at"] * 1000, 1) if last else None,
        "broken": account["broken"],
    }


def _carrier(lost: Mapping[str, Any], moves: Sequence[Mapping[str, Any]]) -> str:
    """The replica to which a lost datagram was sent: the one that carried the datagram before it in its flow."""
    of_flow = [move for move in moves if move["flow"] == lost["flow"]]
    later = [move["from"] for move in of_flow if move["at"] > lost["at"]]
    return str(later[0] if later else lost["replica"])


def show_ends(result: Mapping[str, Any]) -> None:
    """Prints the table of the unannounced ends."""
    columns = ("lost", "lost_of_others", "moved", "moved_of_others", "broken")
    heads = ("lost", "of others", "moved", "of others", "TCP broken", "last packet", "out of targets", "reaction")
    print("Ends that nobody announced" + " " * 8 + "".join(f"{head:>16}" for head in heads))
    for end in result["ends"]:
        times = (end[key] for key in ("last_packet_ms", "out_ms", "reaction_ms"))
        cells = [f"{end[column]:,}" for column in columns] + ["–" if t is None else f"{t:,.1f} ms" for t in times]
        print(f"{end['kind']:<34}" + "".join(f"{cell:>16}" for cell in cells))
    print()
