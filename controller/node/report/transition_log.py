"""Reports each transition in a replica's life: a line in the log, a sample for Prometheus, an event of the pod."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from prometheus_client import Counter, Histogram

from controller.node.plane.drain import Drain
from controller.node.plane.plan import State
from controller.node.plane.transitions import DRAINED, DRAINING, JOINED, STEERED_AWAY, Transition, transitions

log = logging.getLogger(__name__)

REACTION = Histogram(
    "sfc_reaction_seconds",
    "From the news (a watch event, a hook, a message of the kernel) to the targets being written",
    ["transition"],
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
DRAIN = Histogram(
    "sfc_drain_seconds",
    "How long drains took, by what ended them",
    ["ended_by"],
    buckets=(0.01, 0.1, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
MOVED = Counter("sfc_drain_sessions_moved_total", "Sessions that a drain's deadline moved to other replicas")
RESET = Counter("sfc_drain_sessions_reset_total", "Sessions that a drain's deadline ended (drain.atDeadline)")

WORDS = {
    JOINED: "replica in all its targets",
    DRAINING: "replica out of all targets",
    DRAINED: "drain ended",
    STEERED_AWAY: "replica steered away from",
}


class TransitionLog:
    """To be used by one thread: that of the reconciler."""

    def __init__(self, tell: Callable[[Transition], None], drains: Iterable[Drain] = ()) -> None:
        """`tell` is called with each transition, to make it an event; it must be cheap.

        `drains`: in progress since an earlier term, which has reported them.
        """
        self._tell = tell
        self._before = State(drains={drain.pod_uid: drain for drain in drains})

    def note(self, state: State) -> None:
        """Report the transitions from the state of the pass before to `state`."""
        before, self._before = self._before, state
        if before.cluster is None and not before.links:  # first pass: these replicas are new to the agent only
            before = State(state.cluster, state.plan, before.drains)
        for transition in transitions(before, state):
            _write(transition)
            self._tell(transition)


def _write(transition: Transition) -> None:
    since = datetime.fromtimestamp(time.time() - time.monotonic() + transition.since, UTC).isoformat(
        timespec="microseconds"
    )
    took = {"since": since, "after_ms": round(transition.seconds * 1000, 3)}
    log.info(
        WORDS[transition.reason],
        extra={"pod": transition.pod, "cause": transition.message} | took | dict(transition.fields),
    )
    if transition.reason == DRAINED:
        left = transition.fields["sessions_left"]
        DRAIN.labels("idle" if left == 0 else "deadline").observe(transition.seconds)
        (RESET if "at_deadline" in transition.fields else MOVED).inc(float(str(left or 0)))
    else:
        REACTION.labels(transition.reason).observe(transition.seconds)
