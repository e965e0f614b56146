"""How many sessions each replica carried: from the metrics of the node agents to figures and a table. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

METRIC = "sfc_link_sessions_total"
"""Counter of the sessions of a link since it was made. Labels: namespace, chain, stage, pod, interface."""

_SAMPLE = re.compile(rf"^{METRIC}\{{(?P<labels>[^}}]*)\}} (?P<value>\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Replica(NamedTuple):
    """A pod and its stage."""

    stage: str
    pod: str


Sessions = Mapping[Replica, int]


def parse(metrics: str, namespace: str, chain: str) -> dict[Replica, int]:
    """Sessions per replica of a chain, from one agent's metrics in the Prometheus text format.

    A session that crosses a replica counts on each of its interfaces, so the highest count is the number of sessions.
    """
    found: dict[Replica, int] = {}
    for sample in _SAMPLE.finditer(metrics):
        labels = dict(_LABEL.findall(sample["labels"]))
        if (labels["namespace"], labels["chain"]) == (namespace, chain):
            replica = Replica(labels["stage"], labels["pod"])
            found[replica] = max(found.get(replica, 0), int(float(sample["value"])))
    return found


def merged(one: Sessions, other: Sessions) -> dict[Replica, int]:
    """The higher count of each replica: counters only grow, and disappear when their replica leaves."""
    return {replica: max(one.get(replica, 0), other.get(replica, 0)) for replica in {**one, **other}}


def since(now: Sessions, before: Sessions) -> dict[Replica, int]:
    """How many sessions each replica has more than before."""
    return {replica: count - before.get(replica, 0) for replica, count in now.items()}


def by_stage(replicas: Sequence[Replica], whole: Sessions, full: Sessions) -> dict[str, dict[str, Any]]:
    """The `stages` of the report.

    `whole` has the sessions of the whole run. `full` has those from the last scale-out to the first scale-in: the only
    time when all replicas served.
    """
    stages: dict[str, dict[str, Any]] = {}
    for stage in dict.fromkeys(replica.stage for replica in replicas):
        members = sorted(replica for replica in replicas if replica.stage == stage)
        stages[stage] = {
            "replicas": [
                {
                    "pod": member.pod,
                    "sessions": whole.get(member, 0),
                    "share": _share(member, members, whole),
                    "sessionsAtFullScale": full.get(member, 0),
                    "shareAtFullScale": _share(member, members, full),
                }
                for member in members
            ]
        }
    return stages


def table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The `stages` of the report as a table, one line for each replica."""
    head = ("stage", "replica", "sessions", "share", "share while all served")
    rows = [head, *_rows(stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(_line(row, widths) for row in rows)


def complaints(report: Mapping[str, Any]) -> list[str]:
    """Promises of the demo that the report does not keep; empty if everything went well."""
    packets, connections = report["packets"], report["connections"]
    found = []
    if not packets["sent"] or not connections["opened"]:
        found.append("no traffic was sent")
    if packets["lost"]:
        found.append(f"{packets['lost']} of {packets['sent']} packets were lost")
    if connections["broken"]:
        found.append(f"{connections['broken']} of {connections['opened']} connections broke")
    found += [
        f"replica {replica['pod']} of stage {stage} carried no session"
        for stage, of_stage in report["stages"].items()
        for replica in of_stage["replicas"]
        if not replica["sessions"]
    ]
    return found


def _share(member: Replica, members: Sequence[Replica], sessions: Sessions) -> float:
    total = sum(sessions.get(one, 0) for one in members)
    return round(sessions.get(member, 0) / total, 4) if total else 0.0


def _rows(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for stage, of_stage in stages.items():
        for number, replica in enumerate(of_stage["replicas"]):
            yield (
                "" if number else stage,
                replica["pod"],
                f"{replica['sessions']:,}",
                f"{replica['share']:.0%}",
                f"{replica['shareAtFullScale']:.0%}",
            )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Aligns words to the left, figures to the right."""
    cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
    return "  ".join(cells).rstrip()
