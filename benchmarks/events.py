"""Does traffic survive everything that happens to its chain? Measured on a real Kubernetes.

Numbered datagrams, long TCP transfers and short connections run through scale-outs and scale-ins, rolling updates,
kills and rollouts of the node agent, restarts of the webhook, and minutes without API server. Every replica of the
function stage lets a TCP connection pass only if it saw the connection begin, so a moved connection breaks. A first
period without events shows how much the machine and the generators themselves lose. Last, and counted separately, come
unannounced ends of replicas, and a drain whose deadline is exceeded on purpose.

With NODES=3 the replicas are on three nodes. Then replicas also leave while the view of the source's node is late, a
node is cut off for a while, and a node's power is cut.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import account, cluster, ends, happenings, loads, outages
from benchmarks.account import LAST_SECONDS, Play
from benchmarks.happenings import Chain
from benchmarks.report import QUICK, machine, save

MANIFEST = Path(__file__).with_suffix(".yaml")
TENTH = 10 if QUICK else 1
SCALINGS = 100 // TENTH
ROLLING_UPDATES = max(1, 5 // TENTH)
KILLS = 20 // TENTH
API_SERVER_AWAY_SECONDS = 120.0 / TENTH
CONTROL_SECONDS = 20.0 if QUICK else 60.0
DRAIN_SECONDS = 120.0
SEED = 1
NODES = int(os.environ.get("NODES") or 1)
NAME = "events" if NODES == 1 else f"events-{NODES}"
LATE_VIEWS, BEHIND_SECONDS = (3 if QUICK else 20), 5.0

Event = tuple[str, Callable[[], None]]


def main() -> None:
    """Brings the cluster up and measures; fails when an announced event lost a packet or broke a session."""
    with cluster.running(MANIFEST, happenings.NAMESPACE, NODES):
        happenings.build_next_image()
        chain = Chain()
        chain.spread()
        result = measure(chain)
    totals = result["totals"]
    if totals["lost"] or totals["broken"] or not totals["sent"]:
        sys.exit("packets were lost or sessions broke, see above")
    if result["unfinished"]:
        sys.exit("events did not end: " + "; ".join(result["unfinished"]))
    if NODES > 1 and not any(result["returned"]):
        sys.exit("no frame was returned although views were late")
    if complaints := outages.complaints(result["outages"]) if NODES > 1 else []:
        sys.exit("nodes that went without a word: " + "; ".join(complaints))


def measure(chain: Chain) -> dict[str, Any]:
    """Runs all events, prints the accounts and writes build/bench/NAME.json; the account of the announced events.

    With several nodes it has also the account of the outages, and how many frames were returned under late views.
    """
    described = machine()
    chain.settle()
    returned: list[int] = []
    announced = _played(chain, [*announced_events(chain), *late_views(chain, returned)])
    account.show(announced)
    announced["returned"] = returned
    if len(chain.nodes) > 1:
        print(f"frames returned while the view of {chain.nodes[0]} was late, each time: {returned}\n")
        announced["outages"] = outages.went(chain, SEED)
        outages.show(announced["outages"])
    unannounced = ends.ungraceful(chain, SEED)
    ended = {"load_after": os.getloadavg()[0]}
    content: dict[str, Any] = {
        "benchmark": NAME,
        "quick": QUICK,
        "machine": {**described, **ended},
        **announced,
        "unannounced": unannounced,
    }
    path = save(NAME, content)
    ends.show(unannounced)
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
        events.append(("agent killed", partial(chain.kill_agent, number)))
    events += [("agent rollout", chain.roll_agent)]
    events += [scaled(by) for by in (1, 1)]
    events += [("agent rollout, other map layout", lambda: chain.roll_agent(happenings.NEXT_IMAGE))]
    events += [scaled(by) for by in (-1, -1)]
    events += [("agent rollout, layout as before", lambda: chain.roll_agent(happenings.IMAGE))]
    events += [("webhook restart", chain.restart_webhook)]
    events += [scaled(1), scaled(-1)]
    events += [("no API server", lambda: chain.lose_api_server(API_SERVER_AWAY_SECONDS))]
    return [*events, ("drains end", lambda: cluster.until(chain.quiet, "all drains end", DRAIN_SECONDS))]


def late_views(chain: Chain, returned: list[int]) -> list[Event]:
    """Replicas of other nodes leave while the view of the source's node is late, with the count of returned frames."""

    def leave() -> None:
        before = chain.returned()
        chain.leave_unseen(chain.nodes[0], BEHIND_SECONDS)
        returned.append(chain.returned() - before)

    def grow() -> None:
        chain.scale(chain.replicas + 1)

    if len(chain.nodes) == 1:
        return []
    # The relay comes between first: that breaks the agent's connections, and its new ones show it what there is.
    first = ("relay before an agent", lambda: chain.fall_behind(chain.nodes[0], 0))
    once: list[Event] = [("scale-out for a late view", grow), ("replica leaves, a view is late", leave)]
    last = ("drains end", lambda: cluster.until(chain.quiet, "all drains end", DRAIN_SECONDS))
    return [first, *once * LATE_VIEWS, last]


def _played(chain: Chain, events: Sequence[Event]) -> dict[str, Any]:
    with loads.running(chain.process("source"), chain.process("sink"), SEED) as running:
        play = Play(running.phase)
        for kind, event in events:
            play.act(kind, event)
        time.sleep(LAST_SECONDS)
    return {**account.accounted(running, play.windows), "unfinished": play.unfinished}
