"""How many sessions each replica carried: from the metrics of the node agents to figures and a table. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

METRIC = "sfc_link_sessions_total"
"""Counter of the sessions of a link since it was made. Labels: namespace, chain, stage, pod, interface."""

FAR_METRIC = "sfc_far_sessions_total"
"""Counter of the sessions between a node and others. Label: direction. A session counts at each hop."""

_SAMPLE = re.compile(rf"^{METRIC}\{{(?P<labels>[^}}]*)\}} (?P<value>\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


_FAR = re.compile(rf'^{FAR_METRIC}\{{direction="(\w+)"\}} (\S+)', re.MULTILINE)


class Replica(NamedTuple):
    """A pod, its stage and its node."""

    stage: str
    pod: str
    node: str = ""
    """Empty in counts: the metrics name pods only."""


class Crossing(NamedTuple):
    """Sessions of one node, hop by hop: a session counts at each hop that it takes there."""

    links: Mapping[str, int]
    """Sessions of each link of the node, by its labels; one between two links of the node counts for both."""
    sent: int
    """Those that a replica here opened, and for which one of another node was chosen."""
    received: int
    """Those from another node, for a replica here."""

    @property
    def ends(self) -> int:
        """Ends of sessions on this node."""
        return sum(self.links.values())

    @property
    def sessions(self) -> int:
        """Sessions with an end here."""
        return (self.ends + self.sent + self.received) // 2

    @property
    def share(self) -> float:
        """Of these, those with the other end on another node."""
        return round((self.sent + self.received) / self.sessions, 4) if self.sessions else 0.0

    def since(self, before: Crossing) -> Crossing:
        """What has come since `before`."""
        links = {link: count - before.links.get(link, 0) for link, count in self.links.items()}
        return Crossing(links, self.sent - before.sent, self.received - before.received)


NOTHING = Crossing({}, 0, 0)


def crossing(metrics: str, before: Crossing = NOTHING) -> Crossing:
    """From one agent's metrics in the Prometheus text format; with what was seen `before` of links that have left."""
    far = {direction: int(float(value)) for direction, value in _FAR.findall(metrics)}
    links = {sample["labels"]: int(float(sample["value"])) for sample in _SAMPLE.finditer(metrics)}
    return Crossing({**before.links, **links}, far.get("sent", 0), far.get("received", 0))


def crossed(nodes: Mapping[str, Crossing]) -> float:
    """The share of all sessions, hop by hop, that went from one node to another."""
    sent = sum(node.sent for node in nodes.values())
    whole = sum(node.ends for node in nodes.values()) / 2
    return round(sent / whole, 4) if whole else 0.0


COUNTS = ("packets", "connections", "lostPerSecond")
"""What a client's result has by name."""


def combined(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several clients, or their reports so far, as one.

    The seconds are the first one's, from which the others differ by one at most.
    """
    first = results[0]
    sums = {key: dict(_sum(result.get(key, {}) for result in results)) for key in COUNTS}
    return {
        **first,
        **sums,
        "breaks": [each for result in results for each in result.get("breaks", ())],
        "bufferErrors": sum(result.get("bufferErrors", 0) for result in results),
    }


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
        counted = [Replica(member.stage, member.pod) for member in members]
        stages[stage] = {
            "replicas": [
                {
                    "pod": member.pod,
                    "node": member.node,
                    "sessions": whole.get(known, 0),
                    "share": _share(known, counted, whole),
                    "sessionsAtFullScale": full.get(known, 0),
                    "shareAtFullScale": _share(known, counted, full),
                }
                for member, known in zip(members, counted, strict=True)
            ]
        }
    return stages


def table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The `stages` of the report as a table, one line for each replica."""
    head = ("stage", "replica", "sessions", "share", "share while all served")
    return _table([head, *_rows(stages)])


def table_of_nodes(stages: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """The `nodes` of the report as a table: the replicas of each stage there, its sessions, and what crossed."""
    head = ("node", "replicas", "sessions", "crossed")
    rows = [head]
    for node, of_node in nodes.items():
        counts = {stage: sum(r["node"] == node for r in of_stage["replicas"]) for stage, of_stage in stages.items()}
        replicas = ", ".join(f"{count} {stage}" for stage, count in counts.items() if count)
        rows.append((node, replicas or "none", f"{of_node['sessions']:,}", f"{of_node['crossed']:.0%}"))
    return _table(rows)


def in_one_place(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Stages with all their replicas on one node."""
    return [stage for stage, of_stage in stages.items() if len({r["node"] for r in of_stage["replicas"]}) == 1]


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
    if len(report["nodes"]) > 1:
        found += [f"all replicas of stage {stage} are on one node" for stage in in_one_place(report["stages"])]
    found += [
        f"replica {replica['pod']} of stage {stage} carried no session"
        for stage, of_stage in report["stages"].items()
        for replica in of_stage["replicas"]
        if not replica["sessions"]
    ]
    return found


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


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


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Aligns words to the left, figures to the right."""
    cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
    return "  ".join(cells).rstrip()
