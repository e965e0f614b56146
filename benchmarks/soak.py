"""Random events for ten minutes on a real Kubernetes, with the traffic and the account of `events`.

    make soak                                     # ten minutes, with a new seed, which it prints
    SOAK_SEED=7 SOAK_SECONDS=60 make soak         # the events of that seed in the same order, for a minute

What must hold: no datagram is lost or arrives twice, no transfer breaks, and no flow changes its replica, except during
an unannounced end. After each event the replicas asked for serve. Whenever all drains have ended, status, host links
and replicas agree.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import account, cluster, events, happenings, loads
from benchmarks.account import LAST_SECONDS, Play, Window
from benchmarks.ends import ENDS, ended
from benchmarks.happenings import Chain
from benchmarks.report import machine, save

SECONDS = float(os.environ.get("SOAK_SECONDS") or 600)
SEED = int(os.environ.get("SOAK_SEED") or time.time())
REPLICAS = (2, 5)
AWAY_SECONDS = (2.0, 30.0)
PAUSE_SECONDS = (0.0, 3.0)
QUIET_EVERY = 12
"""Events between two checks. A check waits until all drains have ended, then compares what must agree."""
NOTICED_SECONDS = loads.END_SECONDS
"""Within this time after an unannounced end, its client gives up a transfer on the dead replica."""

WEIGHTS = {
    "scale": 12,
    "scale, not waiting": 8,
    "rolling update": 2,
    "agent killed": 4,
    "agent rollout": 1,
    "agent rollout, other map layout": 1,
    "webhook restart": 1,
    "no API server": 1,
    **dict.fromkeys(ENDS, 1),
}
"""How likely each event is, relative to the others."""


def main() -> None:
    """Brings the cluster up and runs the soak; fails with the list of violations."""
    print(f"SOAK_SEED={SEED} SOAK_SECONDS={SECONDS:.0f}", flush=True)
    with cluster.running(events.MANIFEST, happenings.NAMESPACE):
        happenings.build_next_image()
        violations = soak(Chain())
    if violations:
        sys.exit(f"SOAK_SEED={SEED}: " + "\n  ".join(["what must hold does not:", *violations]))


def soak(chain: Chain) -> list[str]:
    """Runs random events for SECONDS, writes build/bench/soak.json; what did not hold, in words."""
    described = machine()
    chain.settle()
    chosen = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    violations: list[str] = []
    with loads.running(chain.process("source"), chain.process("sink"), SEED) as running:
        play = Play(running.phase)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            play.act(*_next(chain, chosen))
            time.sleep(chosen.uniform(*PAUSE_SECONDS))
            if len(play.windows) % QUIET_EVERY == 0:
                violations += _compared(chain, play)
        violations += _compared(chain, play)
        time.sleep(LAST_SECONDS)
    result = account.accounted(running, play.windows)
    account.show(result)
    violations += [*play.unfinished, *broken_rules(result, play.windows)]
    content = {"seed": SEED, "machine": described, "violations": violations, **result}
    save("soak", content)
    return violations


def _next(chain: Chain, chosen: random.Random) -> tuple[str, Callable[[], None]]:
    """The next event. All random numbers are drawn here, so that durations do not change the order of events."""
    kind = chosen.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
    replicas, away, victim = chosen.randint(*REPLICAS), chosen.uniform(*AWAY_SECONDS), chosen.random()
    actions: dict[str, Callable[[], None]] = {
        "scale": lambda: chain.scale(replicas),
        "scale, not waiting": lambda: chain.scale(replicas, wait=False),
        "rolling update": chain.roll,
        "agent killed": chain.kill_agent,
        "agent rollout": chain.roll_agent,
        "agent rollout, other map layout": lambda: chain.roll_agent(chain.other_image()),
        "webhook restart": chain.restart_webhook,
        "no API server": lambda: chain.lose_api_server(away),
    }
    return kind, actions.get(kind) or (lambda: _end(chain, kind, victim))


def _end(chain: Chain, kind: str, victim: float) -> None:
    end = ended(chain, kind, victim)
    if end["out_ms"] is None:
        raise RuntimeError(f"{end['pod']}: {end['cause']}")


def _compared(chain: Chain, play: Play) -> list[str]:
    found: list[str] = []

    def compare() -> None:
        cluster.until(chain.quiet, "all drains end", events.DRAIN_SECONDS)
        try:
            cluster.until(lambda: not chain.disagreements(), "status, links and replicas agree", 15)
        except RuntimeError:
            found.extend(chain.disagreements())

    play.act("drains end", compare)
    return found


def broken_rules(result: Mapping[str, Any], windows: Sequence[Window]) -> list[str]:
    """Losses in the account that no unannounced end excuses, in words."""
    excused = {number for number, window in enumerate(windows) if window.kind in ENDS}
    rules = [
        f"{event[count]} datagrams {count} during {event['kind']!r}, event {number + 1}"
        for number, event in enumerate(result["events"])
        for count in ("lost", "duplicated", "moved")
        if event[count] and (number not in excused or count == "duplicated")
    ]
    ends = [windows[number] for number in sorted(excused)]
    return rules + [f"a transfer broke: {each}" for each in result["broken"] if not _excused(each, ends)]


def _excused(broken: Mapping[str, Any], ends: Sequence[Window]) -> bool:
    """Whether the transfer ran while a replica ended unannounced, and broke soon after.

    A function whose sandbox was killed carries traffic until the kubelet has ended it, and that waits for the agent.
    """
    began, ended = broken["began"] / 1e9 - LAST_SECONDS, broken["ended"] / 1e9
    return any(
        began <= end.began + end.seconds and end.began <= ended <= end.began + end.seconds + NOTICED_SECONDS
        for end in ends
    )
