"""Ends of replicas that nobody announced, and a drain whose deadline is exceeded on purpose."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks import cluster, happenings, loads
from benchmarks.account import LAST_SECONDS, Play, accounted
from benchmarks.happenings import Chain, Pod

TRANSITION_SECONDS = 20.0
"""Within so many seconds after the end the agent should have logged a transition, if it is Ready then."""
MOST_SECONDS = 180.0
"""For an agent that is not."""
EXCEEDED_SECONDS = 2
"""The drain deadline that is exceeded."""


def ungraceful(chain: Chain, seed: int) -> dict[str, Any]:
    """One end of each kind: what was lost, and how long packets still went to the dead replica."""
    ends: list[dict[str, Any]] = []
    with loads.running(chain.process("source"), chain.process("sink"), seed) as running:
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
    # The kubelet may be faster.
    cluster.in_node("sh", "-c", f"({attempts}) 2>/dev/null || :", node=happenings.node_of(victim))
    return at


def _agent_absent(chain: Chain, victim: Pod) -> float:
    """The agent dies just before the replica's sandbox."""
    sandbox = happenings.sandbox(victim)
    happenings.kill(happenings.container(chain.agent(happenings.node_of(victim)), "node"))
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
    pod, node = f"{happenings.NAMESPACE}/{happenings.name(victim)}", happenings.node_of(victim)
    at = ENDS[kind](chain, victim)
    transitions: list[dict[str, Any]] = []

    def noticed() -> bool:
        known = {"replica steered away from", "replica out of all targets"}
        transitions[:] = [
            line for line in chain.said(node, pod=pod) if line["message"] in known and happenings.moment(line) > at
        ]
        return bool(transitions)

    def judged() -> bool:
        """An agent that has died itself comes back when the kubelet restarts it, which may take longer."""
        return noticed() or (time.time() - at > TRANSITION_SECONDS and chain.agents_ready())

    with suppress(RuntimeError):  # then the result's cause says so
        cluster.until(judged, f"the agent logs a transition of {pod}", MOST_SECONDS)
    noticed()
    time.sleep(LAST_SECONDS)
    chain.settle()
    cluster.until(chain.agents_ready, "the agents are Ready")
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
    mine = [each for each in lost if carrier(each, datagrams["moves"]) == end["stamp"]]
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


def carrier(lost: Mapping[str, Any], moves: Sequence[Mapping[str, Any]]) -> str:
    """The replica to which a lost datagram was sent: the one that carried the datagram before it in its flow."""
    of_flow = [move for move in moves if move["flow"] == lost["flow"]]
    later = [move["from"] for move in of_flow if move["at"] > lost["at"]]
    return str(later[0] if later else lost["replica"])


def show(result: Mapping[str, Any]) -> None:
    """Prints the table of the unannounced ends."""
    columns = ("lost", "lost_of_others", "moved", "moved_of_others", "broken")
    heads = ("lost", "of others", "moved", "of others", "TCP broken", "last packet", "out of targets", "reaction")
    print("Ends that nobody announced" + " " * 8 + "".join(f"{head:>16}" for head in heads))
    for end in result["ends"]:
        times = (end[key] for key in ("last_packet_ms", "out_ms", "reaction_ms"))
        cells = [f"{end[column]:,}" for column in columns] + ["–" if t is None else f"{t:,.1f} ms" for t in times]
        print(f"{end['kind']:<34}" + "".join(f"{cell:>16}" for cell in cells))
    print()
