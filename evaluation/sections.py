"""The sections of the page: their plots and tables, and sentences made from the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import cni, efficiency, forwarding, full_node, pods, program, redirection, scale
from benchmarks.report import Spread
from evaluation import plots
from evaluation.plots import Draw, Plane

Results = Mapping[str, Mapping[str, Any]]
"""By experiment, the JSON that its benchmark wrote."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table in Markdown; all cells are text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Part:
    """A plot, the sentences below it, and tables."""

    name: str
    """Also the name of the plot's file."""
    draws: Sequence[Draw]
    """The panels of the plot; without any, the part has no plot."""
    says: str
    tables: Sequence[Table]


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page."""

    title: str
    experiments: Sequence[str]
    """Those whose results it needs."""
    parts: Callable[[Results], Iterator[Part]]


def _spreads(content: Mapping[str, Any], unit: str) -> dict[str, Spread]:
    return {name: Spread.of(values) for name, values in content["rounds"][unit].items()}


def _redirection(results: Results) -> Iterator[Part]:
    spreads = _spreads(results["redirection"], redirection.UNIT)
    for room in redirection.ROOMS:
        series = {
            event: {
                way: {n: spreads[redirection.name(way, event, room, n)] for n in redirection.REPLICAS}
                for way in redirection.WAYS
            }
            for event in redirection.EVENTS
        }
        titles = {"out": "one replica more", "in": "one replica less"}
        top = 1.05 * max(point.high for ways in series.values() for of in ways.values() for point in of.values())
        yield Part(
            f"redirection-{room.replace(' ', '-')}",
            [
                plots.lines(
                    Plane(
                        f"{titles[event]}, {room}",
                        "replicas, the lesser number",
                        "sessions that move, %",
                        log_x=True,
                        top=top,
                    ),
                    ways,
                )
                for event, ways in series.items()
            ],
            f"With {room}: {_redirection_says(series)}",
            [
                Table(
                    ("replicas", *redirection.WAYS),
                    [
                        (_scaling(event, n), *(_shown(ways[way][n]) for way in redirection.WAYS))
                        for event, ways in series.items()
                        for n in redirection.REPLICAS
                    ],
                )
            ],
        )


def _redirection_says(series: Mapping[str, Mapping[str, Mapping[int, Spread]]]) -> str:
    told = []
    for way in redirection.WAYS:
        found = [
            (ways[way][n].median, _scaling(event, n)) for event, ways in series.items() for n in redirection.REPLICAS
        ]
        share, where = max(found)
        told.append(f"{way} moves {f'{share:.1f} % of the sessions at the worst ({where})' if share else 'no session'}")
    return f"{'; '.join(told)}."


def _scaling(event: str, replicas: int) -> str:
    return f"{replicas} → {replicas + 1}" if event == "out" else f"{replicas + 1} → {replicas}"


def _shown(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.low)} … {_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _efficiency(results: Results) -> Iterator[Part]:
    content = results["efficiency"]
    spreads = _spreads(content, efficiency.UNIT)
    counts = range(1, content["most"] + 1)
    series = {
        way: {n: spreads[efficiency.name(way, n)] for n in counts if efficiency.name(way, n) in spreads}
        for way in efficiency.WAYS
    }
    stage, chain = (series[way][counts[-1]].median for way in (efficiency.STAGE, efficiency.CHAIN))
    yield Part(
        "efficiency",
        [plots.lines(Plane("Fig. 4 of the paper", "firewalls", "requested milliCPU"), series)],
        f"With {counts[-1]} firewalls, scaling the stage asks the cluster for {stage:,.0f} milliCPU, scaling the whole "
        f"chain for {chain:,.0f}: {100 * (1 - stage / chain):.0f} % less. The figures are the requests of the "
        "pods of a real cluster, scaled by hand, and by a HorizontalPodAutoscaler that follows a load.",
        [Table(("firewalls", *series), [(str(n), *(_total(of.get(n)) for of in series.values())) for n in counts])],
    )


def _total(spread: Spread | None) -> str:
    return f"{spread.median:,.0f}" if spread else ""


def _throughput(results: Results) -> Iterator[Part]:
    content = results["forwarding"]
    for kind, title in (("tcp", "TCP, one connection"), ("pps", "64-byte packets"), ("p50", "Round trip")):
        spreads = _spreads(content, forwarding.UNITS[kind])
        groups: dict[str, dict[str, Spread]] = {}
        for label, spread in spreads.items():
            hops, found, join = label.partition(", ")
            if found:
                groups.setdefault(hops, {})[join] = spread
        unit = forwarding.UNITS[kind].removeprefix("TCP, ").removeprefix("64-byte packets, ")
        yield Part(
            f"forwarding-{kind}",
            [plots.bars(Plane(title, "", unit), groups)],
            _throughput_says(kind, content, groups),
            [
                Table(
                    ("way", *groups),
                    [
                        (join, *(_shown(group[join]) for group in groups.values()))
                        for join in next(iter(groups.values()))
                    ],
                )
            ],
        )


def _throughput_says(kind: str, content: Mapping[str, Any], groups: Mapping[str, Mapping[str, Spread]]) -> str:
    if kind == "p50":
        added = _spreads(content, forwarding.UNITS["hop"])
        told = [f"{label} {spread.median:.1f} µs" for label, spread in added.items() if label.startswith("1 hop")]
        return f"One hop adds to the round trip of a direct veth pair: {'; '.join(told).replace('1 hop, ', '')}."
    told = [
        f"{spread['median']:.2f} ({spread['low']:.2f} … {spread['high']:.2f}) of {name.partition('/')[2]}"
        for name, spread in content["spread"].items()
        if name.startswith(f"{kind}.ours/")
    ]
    return f"Ours, over one hop, reaches {'; '.join(told)}."


@dataclass(frozen=True, slots=True)
class _Axis:
    """The x axis of figures between pods: hops or replicas."""

    what: str
    label: Callable[[int, pods.Way], str]
    places: Sequence[int]
    ways: Sequence[pods.Way]

    def series(self, content: Mapping[str, Any], kind: str) -> dict[str, dict[int, Spread]]:
        spreads = _spreads(content, pods.UNITS[kind])
        return {way.name: {place: spreads[self.label(place, way)] for place in self.places} for way in self.ways}

    def part(self, content: Mapping[str, Any], name: str, kinds: Sequence[str], says: str) -> Part:
        found = {kind: self.series(content, kind) for kind in kinds}
        draws, tables = [], []
        for kind, series in found.items():
            title, _, unit = pods.UNITS[kind].rpartition(", ")
            draws.append(plots.lines(Plane(title[0].upper() + title[1:], self.what, unit, log_x=True), series))
            rows = [(str(at), *(_shown(of[at]) for of in series.values())) for at in self.places]
            tables.append(Table((f"{pods.UNITS[kind]}: {self.what}", *series), rows))
        return Part(f"pods-{name}", draws, says, tables)


def _pods(results: Results) -> Iterator[Part]:
    content = results["pods"]
    hops = _Axis("hops", pods.name, _places(content, "hop"), pods.WAYS)
    paper = "One hop is the paper's client and server; with two, a transparent firewall is between them (V.B, Fig. 5). "
    for name, kinds in (("tcp", ("tcp", "tcp6", "cpu")), ("small", ("pps", "connections")), ("time", ("p50", "p99"))):
        says = (paper if name == "tcp" else "") + _pods_say(content, kinds, hops.places)
        part = hops.part(content, name, kinds, says)
        yield replace(part, tables=[*part.tables, _pods_ratios(content, kinds, hops.places)])
    replicas = _Axis("replicas of the function", pods.scaled_name, _places(content, "replica"), (pods.VETH, pods.OURS))
    most, kinds = replicas.places[-1], ("tcp", "pps", "connections")
    told = (f"{_ratio_said(content, f'{kind}, {most} replicas, ours/veth')} ({pods.UNITS[kind]})" for kind in kinds)
    yield replicas.part(
        content,
        "replicas",
        kinds,
        f"With the function scaled to {most} replicas, ours over two hops reaches these shares of direct veth pairs to "
        f"the first replica: {'; '.join(told)}.",
    )


def _places(content: Mapping[str, Any], what: str) -> Sequence[int]:
    """The numbers of hops, or of replicas, that were measured."""
    labels = (label.replace(",", "").split() for label in content["rounds"][pods.UNITS["tcp"]])
    return sorted({int(number) for number, unit, *_ in labels if unit.removesuffix("s") == what})


def _pods_say(content: Mapping[str, Any], kinds: Sequence[str], hops: Sequence[int]) -> str:
    ratios, most = content["ratios"], f"{hops[-1]} hops"
    told = (
        f"{ratios[f'{kind}, {most}, ours/veth']:.2f} of veth and {ratios[f'{kind}, {most}, ours/bridge']:.2f} of the "
        f"bridge ({pods.UNITS[kind]})"
        for kind in kinds
    )
    return f"Over {most}, ours is at {'; '.join(told)}."


def _pods_ratios(content: Mapping[str, Any], kinds: Sequence[str], hops: Sequence[int]) -> Table:
    others = ("veth", "bridge")
    rows = [
        (
            f"{pods.UNITS[kind]}, hops: {count}",
            *(_ratio_said(content, f"{kind}, {count} hops, ours/{other}") for other in others),
        )
        for kind in kinds
        for count in hops
    ]
    return Table(("ratios", *(f"ours / {other}" for other in others)), rows)


def _ratio_said(content: Mapping[str, Any], name: str) -> str:
    spread = content["spread"][name]
    return f"{spread['median']:.2f} ({spread['low']:.2f} … {spread['high']:.2f})"


def _program(results: Results) -> Iterator[Part]:
    content = results["program"]
    spreads = _spreads(content, "ns per packet")
    per_session = _spreads(results["scale"], scale.PACKET)
    few, *_, many = per_session
    yield Part(
        "program",
        [
            plots.bars(
                Plane("BPF_PROG_TEST_RUN", "", "ns per packet"), {_wrapped(n): {"": s} for n, s in spreads.items()}
            )
        ],
        f"A packet of a known session costs {spreads[program.OURS].median:.0f} ns in the program, "
        f"{content['ratios']['ours/floor']:.2f} times what the floor program costs.",
        [_plain("packet", "ns", spreads)],
    )
    yield Part(
        "sessions",
        [
            plots.lines(
                Plane("Known sessions in turn", "sessions in the table", "ns per packet", log_x=True),
                {"ours": {int(name.replace(",", "")): spread for name, spread in per_session.items()}},
            )
        ],
        f"With {many} sessions instead of {few}, and each packet of another session, a packet costs "
        f"{per_session[many].median:.0f} ns instead of {per_session[few].median:.0f}: the caches no longer hold "
        "the sessions.",
        [_plain("sessions", "ns per packet", per_session)],
    )


def _scale(results: Results) -> Iterator[Part]:
    content = results["scale"]
    found = {unit: _spreads(content, unit) for unit in full_node.UNITS}
    by_connections = {c: scale.size(c, r) for c, r in scale.SIZES if r == scale.FULL[1]}
    by_replicas = {r: scale.size(c, r) for c, r in sorted(scale.SIZES) if c == 1}
    targets = {full_node.COLD: (5, "target: 5 s"), full_node.CHANGE: (10, "target: 10 ms")}
    for name, x, sizes, bounds in (
        ("connections", f"cross-connections, {scale.FULL[1]} replicas a side", by_connections, targets),
        ("replicas", "replicas a side, one cross-connection", by_replicas, {}),
    ):
        last = list(sizes.values())[-1]
        yield Part(
            f"scale-{name}",
            [
                plots.lines(
                    Plane(
                        unit.rpartition(", ")[0],
                        x,
                        unit.rpartition(", ")[2],
                        log_x=True,
                        log_y=True,
                        bound=bounds.get(unit),
                    ),
                    {"ours": {n: found[unit][size] for n, size in sizes.items()}},
                )
                for unit in targets
            ],
            f"At {last}, an agent that starts with empty maps has written everything after "
            f"{found[full_node.COLD][last].median:.2f} s. It writes one replica's change within "
            f"{found[full_node.CHANGE][last].median:.1f} ms, and uses "
            f"{found[full_node.RESIDENT][last].median:.0f} MB of memory.",
            [],
        )
    every = [scale.size(*each) for each in scale.SIZES]
    yield Part(
        "",
        [],
        "The table has all sizes, as cross-connections × replicas a side. A node has 4,095 slots for links, so it can "
        "hold 1,000 × 2. The size 1,000 × 16, 32,000 links, is measured with larger maps and links that are values. "
        "The cost of a change depends on its chain; the first pass grows with the number of tables.",
        [Table(("size", *full_node.UNITS), [(size, *(_shown(found[unit][size]) for unit in found)) for size in every])],
    )


def _cni(results: Results) -> Iterator[Part]:
    content = results["cni"]
    units = (cni.ADD, cni.DEL)
    found = {unit[:3]: _spreads(content, unit) for unit in units}
    told = [
        f"{command} through ours takes {of[cni.OURS].median:.1f} ms, through ptp {of[cni.PEER].median:.1f} "
        f"({content['ratios'][f'{command}, sfc/ptp']:.2f} times)"
        for command, of in found.items()
    ]
    parts = _spreads(content, cni.PARTS)
    named = [f"{name} {spread.median:.1f} ms" for name, spread in parts.items()]
    yield Part(
        "cni",
        [plots.bars(Plane("CNI calls, the same IPAM plugin", "", "ms"), found)],
        f"{'; '.join(told)}. Parts of ours, measured alone: {', '.join(named)}. The rest is netlink and the agent's "
        "own work.",
        [Table(("way", *found), [(way, *(_shown(of[way]) for of in found.values())) for way in (cni.OURS, cni.PEER)])],
    )


def _reaction(results: Results) -> Iterator[Part]:
    content = results["reaction"]
    for what, phases in content["phases"].items():
        spreads = {name: Spread.of(phase["all_ms"]) for name, phase in phases.items()}
        whole = list(phases)[-1]
        yield Part(
            f"reaction-{what}",
            [
                plots.steps(
                    Plane(f"{what}, {content['repetitions'][what]} times", "ms", "", log_x=True),
                    spreads,
                    {name: phase["p99_ms"] for name, phase in phases.items()},
                )
            ],
            "The diamond is the median, the band the quartiles, the stroke the 99th percentile. "
            f"Of the {phases[whole]['median_ms']:.0f} ms from {whole.replace(' → ', ' to ')}, our own part is "
            f"{content['median_ms'][what]:.2f} ms at the median and {content['p99_ms'][what]:.2f} ms at the 99th "
            "percentile.",
            [
                Table(
                    ("phase", "median, ms", "99th percentile, ms"),
                    [(n, f"{p['median_ms']:.2f}", f"{p['p99_ms']:.2f}") for n, p in phases.items()],
                )
            ],
        )


def _loss(results: Results) -> Iterator[Part]:
    content = results["events"]
    totals = content["totals"]
    columns = [name for name in ("sent", "received", "lost", "duplicated", "reordered", "moved") if name in totals]
    kinds = list(dict.fromkeys(account["kind"] for account in content["events"]))
    sums = {
        kind: [
            sum(account.get(column, 0) for account in content["events"] if account["kind"] == kind)
            for column in columns
        ]
        for kind in kinds
    }
    yield Part(
        "",
        [],
        f"Through {len(content['events'])} events, {totals['sent']:,} datagrams were sent. {totals['lost']:,} were "
        f"lost, and {totals['broken']:,} connections broke.",
        [Table(("event", *columns), [(kind, *(f"{value:,}" for value in row)) for kind, row in sums.items()])],
    )
    ends = content["unannounced"]["ends"]
    counts = ("lost", "lost_of_others", "moved", "moved_of_others", "broken")
    times = ("last_packet_ms", "out_ms", "reaction_ms")
    others = sum(end["lost_of_others"] for end in ends)
    yield Part(
        "",
        [],
        "The table has ends that nobody announces, and a drain whose deadline is exceeded on purpose. Datagrams that "
        "were on their way to the replica before the agent heard the first signal are lost; of datagrams to other "
        f"replicas, {others:,} {'was' if others == 1 else 'were'} lost. TCP connections through the replica break, "
        "because the function forwards only connections that it saw begin. A replica whose sandbox was killed keeps "
        "serving, and drains, until the kubelet ends it. The times of the last packet and of leaving the targets "
        "count from the end itself; our reaction counts from the first signal.",
        [
            Table(
                (
                    "end",
                    "lost",
                    "lost of others",
                    "moved",
                    "moved of others",
                    "TCP broken",
                    "last packet, ms",
                    "out of the targets, ms",
                    "our reaction, ms",
                ),
                [
                    (
                        end["kind"],
                        *(f"{end[count]:,}" for count in counts),
                        *("–" if end[each] is None else f"{end[each]:,.1f}" for each in times),
                    )
                    for end in ends
                ],
            )
        ],
    )


def _admission(results: Results) -> Iterator[Part]:
    content = results["admission"]
    found = _spreads(content, "median ms")
    rates = _spreads(content, "requests per second")
    groups: dict[str, dict[str, Spread]] = {}
    for label, spread in found.items():
        way, _, pod = label.partition(", ")
        groups.setdefault(pod, {})[way] = spread
    added = " and ".join(f"{ms:.1f} ms more for the {pod} pod" for pod, ms in content["added_median_ms"].items())
    yield Part(
        "admission",
        [
            plots.bars(Plane(f"Latency over TLS, {pod}", "", "ms"), {way: {"": s} for way, s in of.items()})
            for pod, of in groups.items()
        ],
        f"At the median, an admission takes {added} than the empty handler.",
        [_plain("way", "ms", found), _plain("way", "requests per second", rates)],
    )


def _plain(what: str, unit: str, spreads: Mapping[str, Spread]) -> Table:
    return Table((what, unit), [(name, _shown(spread)) for name, spread in spreads.items()])


def _wrapped(label: str) -> str:
    return label.removeprefix("ours, ").replace(" ", "\n")


SECTIONS = (
    Section("Scaling efficiency", ["efficiency"], _efficiency),
    Section("Throughput between pods", ["pods"], _pods),
    Section("Throughput of the wires alone", ["forwarding"], _throughput),
    Section("Reaction", ["reaction"], _reaction),
    Section("Loss", ["events"], _loss),
    Section("Session redirection", ["redirection"], _redirection),
    Section("Scale", ["scale"], _scale),
    Section("The program", ["program", "scale"], _program),
    Section("CNI", ["cni"], _cni),
    Section("Admission", ["admission"], _admission),
)
