"""The account of traffic through events: what was lost, moved or broken, and during which event."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.loads import Loads
from benchmarks.transfers import PATIENCE_SECONDS
from kube.api import ApiError

LAST_SECONDS = 3.0
"""After the last event, until all its traffic has arrived."""
COUNTS = ("sent", "received", "lost", "duplicated", "reordered", "moved", "overflowed")


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


def accounted(running: Loads, windows: Sequence[Window]) -> dict[str, Any]:
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
