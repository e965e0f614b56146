"""Planning again after a change gives the same plan as planning from nothing, but plans only the chains concerned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.node.plane import desired as plan
from controller.node.plane import maglev
from controller.node.plane.changes import Change, Clear, Forget, Set, changes
from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, HostLink, LinksByPod, LinkState, by_pod
from controller.node.plane.numbers import numbered
from controller.node.plane.plan import Plan, State
from controller.node.plane.replica import Replica
from controller.node.plane.transitions import transitions
from sfc.chain import Chain, Patience, SessionKey
from sfc.reading import chain_of
from tests.unit.objects import chain, link, pod
from tests.unit.test_desired import ALL, CLIENT, EDGE, LEFT, RIGHT2, TWO_FIREWALLS, cluster

INTERFACES = {"client": ("lan",), "firewall": ("left", "right"), "nat": ("inside", "outside"), "server": ("wan",)}
PODS = [f"{name}-{stage}-{number}" for name in ("edge", "core") for stage in INTERFACES for number in (1, 2)]
SLOTS = 20


def chain_called(name: str, **client: Any) -> Chain:
    obj = chain()
    obj["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    obj["spec"]["stages"][0]["interfaces"][0] |= client
    return chain_of(obj)


EDITS = ({}, {"addresses": ["10.1.0.7/24"]}, {"mac": "02:00:00:00:00:07"})


def replica(name: str) -> Replica:
    of_chain, stage, _ = name.split("-")
    return Replica("telco", name, f"uid-{name}", of_chain, stage, True, False, False, None)


@dataclass
class World:
    """The inputs of a plan; each step changes one of them."""

    chains: dict[str, Chain] = field(default_factory=lambda: {name: chain_called(name) for name in ("edge", "core")})
    replicas: dict[str, Replica] = field(default_factory=dict)
    links: list[HostLink] = field(default_factory=list)
    drains: dict[str, Drain] = field(default_factory=dict)
    heard: bool = True
    made: int = 0

    def __post_init__(self) -> None:
        for number, name in enumerate(PODS):
            self.join(name, 0)
            self.wire(name, number)

    def take(self, step: str, name: str, choice: int) -> None:
        getattr(self, step)(name, choice)

    def hear(self, name: str, choice: int) -> None:
        """The API server is heard; or not yet, as after a start."""
        self.heard = bool(choice)

    def edit_chain(self, name: str, choice: int) -> None:
        of_chain = name.split("-", maxsplit=1)[0]
        self.chains[of_chain] = chain_called(of_chain, **EDITS[choice % len(EDITS)])

    def edit_patience(self, name: str, choice: int) -> None:
        if known := self.chains.get(of_chain := name.split("-", maxsplit=1)[0]):
            self.chains[of_chain] = replace(
                known, patience=Patience(udp=choice % 3), session_key=[*SessionKey][choice % 3]
            )

    def delete_chain(self, name: str, choice: int) -> None:
        self.chains.pop(name.split("-", maxsplit=1)[0], None)

    def join(self, name: str, choice: int) -> None:
        """The pod is new, or reported again."""
        self.replicas[f"uid-{name}"] = replica(name)

    def relabel(self, name: str, choice: int) -> None:
        if known := self.replicas.get(f"uid-{name}"):
            self.replicas[known.uid] = replace(known, chain=("edge", "core", "nowhere")[choice % 3])

    def change(self, name: str, choice: int) -> None:
        if known := self.replicas.get(f"uid-{name}"):
            self.replicas[known.uid] = replace(known, ready=bool(choice & 1), stopped=bool(choice & 2))

    def delete_pod(self, name: str, choice: int) -> None:
        self.replicas.pop(f"uid-{name}", None)

    def drain(self, name: str, choice: int) -> None:
        ended = 1.0 if choice & 1 else None
        self.drains[f"uid-{name}"] = Drain(f"uid-{name}", 0, 30, out_of_targets_at=1.0, ended_at=ended)

    def undo_drain(self, name: str, choice: int) -> None:
        self.drains.pop(f"uid-{name}", None)

    def wire(self, name: str, choice: int) -> None:
        """A new link in a free slot, which another link may have had before."""
        used = {each.slot for each in self.links}
        slot = next((s for at in range(SLOTS) if (s := 1 + (choice + at) % SLOTS) not in used), None)
        if slot:
            self.made += 1
            interfaces = INTERFACES[name.split("-")[1]]
            made = link(slot, name, interfaces[choice % len(interfaces)], filter_slot=slot if choice & 4 else None)
            self.links.append(replace(made, ifindex=100 + self.made))

    def unwire(self, name: str, choice: int) -> None:
        self.links = [each for each in self.links if each.pod_uid != f"uid-{name}" or choice & 1]

    def rewire(self, name: str, choice: int) -> None:
        """A link vanishes, and another one gets its slot before the next pass."""
        if self.links:
            self.links.pop(choice % len(self.links))
            self.wire(name, choice)

    def shut(self, name: str, choice: int) -> None:
        self.links = [replace(e, up=bool(choice & 1)) if e.pod_uid == f"uid-{name}" else e for e in self.links]

    def list_again(self, name: str, choice: int) -> None:
        """The links are equal, but other objects."""
        self.links = [replace(each) for each in self.links]

    @property
    def cluster(self) -> Cluster | None:
        return Cluster({("telco", n): c for n, c in self.chains.items()}, dict(self.replicas)) if self.heard else None


STEPS = sorted({name for name in vars(World) if not name.startswith("_")} - {"take", "cluster", *World.__annotations__})
steps = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(PODS), st.integers(0, 2 * SLOTS)), max_size=40)


@dataclass
class Maps:
    """The content of the maps after the changes."""

    plane: DataPlane = field(default_factory=lambda: DataPlane({}, {}, {}, {}, {}, {}))

    def carry_out(self, change: Change) -> None:
        match change:
            case Set(kind, key, value):
                getattr(self.plane, kind)[key] = value
            case Clear(kind, key):
                del getattr(self.plane, kind)[key]
            case Forget(connection):
                assert connection not in {entry.connection for entry in self.plane.links.values()}
                del self.plane.numbers[connection]

    def named(self) -> Iterator[int]:
        """The slots in the targets."""
        return (int(slot) for table in self.plane.targets.values() for slot in table.split())


@pytest.fixture(autouse=True)
def _quick_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maglev, "table", lambda replicas: b" ".join(str(slot).encode() for _, slot in sorted(replicas)))


LAST_LINK_OF_AN_UNKNOWN_POD = [
    ("change", "edge-client-1", 0),
    ("delete_pod", "edge-nat-2", 0),
    ("edit_patience", "edge-client-1", 1),
    ("change", "edge-client-1", 0),
    ("rewire", "edge-nat-2", 5),
]
"""It shares its cross-connection with links of the chain, which keep their patience."""


@settings(max_examples=200)
@given(steps)
@example(LAST_LINK_OF_AN_UNKNOWN_POD)
def test_whatever_changed_the_plan_is_the_one_made_from_nothing(history: list[tuple[str, str, int]]) -> None:
    world, before, maps = World(), Plan(), Maps()
    for step in history:
        world.take(*step)
        links = by_pod(world.links)

        after = plan.desired(world.cluster, links, world.drains, before, before)

        anew = plan.desired(world.cluster, links, world.drains, maps.plane, Plan(numbers=before.numbers))
        assert after.plane == anew.plane
        assert after.numbers == anew.numbers
        for change in changes(before, after):
            maps.carry_out(change)
            assert all(maps.plane.links[slot].state != LinkState.GONE for slot in maps.named())
        assert maps.plane == after.plane
        before = after


@settings(max_examples=100)
@given(steps)
def test_whatever_changed_the_transitions_are_the_same(history: list[tuple[str, str, int]]) -> None:
    world, before = World(), State()
    for step in history:
        world.take(*step)
        asked = world.cluster, by_pod(world.links), dict(world.drains)

        after = State(world.cluster, plan.desired(*asked, before.plan, before.plan), dict(world.drains))
        anew = replace(after, plan=plan.desired(*asked, before.plan, Plan()))

        assert list(transitions(before, after)) == list(transitions(before, anew))
        before = after


CORE = chain_called("core")
CORE_PODS = {f"uid-{name}": replica(name) for name in ("core-server-1", "core-server-2")}
"""Two replicas; the second has no link yet."""
TWO_CHAINS = Cluster({**TWO_FIREWALLS.chains, ("telco", "core"): CORE}, {**TWO_FIREWALLS.replicas, **CORE_PODS})
LINKS = by_pod((*ALL, link(6, "core-server-1", "wan")))
EDGE_KEY, CORE_KEY = ("telco", "edge"), ("telco", "core")


def again(of: Cluster, links: LinksByPod, drains: dict[str, Drain] | None = None) -> tuple[Plan, Plan]:
    before = plan.desired(TWO_CHAINS, LINKS, {}, Plan(), Plan())
    return before, plan.desired(of, links, drains or {}, before, before)


def test_nothing_is_planned_again_when_nothing_has_changed() -> None:
    before, after = again(Cluster(dict(TWO_CHAINS.chains), dict(TWO_CHAINS.replicas)), dict(LINKS))

    assert all(after.parts[key] is before.parts[key] for key in (EDGE_KEY, CORE_KEY))
    assert list(changes(before, after)) == []


@pytest.mark.parametrize(
    "asked",
    [
        (replace(TWO_CHAINS, replicas={**TWO_CHAINS.replicas, "uid-client-2": replica("edge-client-2")}), LINKS),
        (cluster(pod("client-1", "client"), pod("firewall-1", "firewall", ready=False)), LINKS),
        (replace(TWO_CHAINS, chains={**TWO_CHAINS.chains, EDGE_KEY: chain_called("edge", mtu=1400)}), LINKS),
        (TWO_CHAINS, {**LINKS, "uid-firewall-1": (LEFT,)}),
        (TWO_CHAINS, LINKS, {"uid-firewall-1": Drain("uid-firewall-1", 0, 30)}),
    ],
    ids=["a replica joins", "a replica is not ready", "a chain is edited", "a link vanishes", "a replica drains"],
)
def test_a_change_of_one_chain_leaves_the_others_as_they_were_planned(asked: Any) -> None:
    of, *rest = asked
    both = Cluster({CORE_KEY: CORE, **of.chains}, {**of.replicas, **CORE_PODS})

    before, after = again(both, *rest)

    assert after.parts[CORE_KEY] is before.parts[CORE_KEY]
    assert after.parts[EDGE_KEY] is not before.parts[EDGE_KEY]


def test_a_side_with_the_same_targets_keeps_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan.desired(TWO_FIREWALLS, by_pod(ALL), {}, Plan(), Plan())
    made: list[Any] = []
    monkeypatch.setattr(maglev, "table", lambda replicas: made.append(replicas) or b"made")
    leaving = {"uid-firewall-1": Drain("uid-firewall-1", 0, 30)}

    plan.desired(TWO_FIREWALLS, by_pod(ALL), leaving, before, before)

    assert sorted(made) == [[("uid-firewall-2", 4)], [("uid-firewall-2", RIGHT2.slot)]]


def test_tables_made_before_the_api_server_was_heard_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    served = plan.desired(TWO_CHAINS, LINKS, {}, Plan(), Plan())
    restarted = plan.desired(None, LINKS, {}, served.plane, Plan())
    monkeypatch.setattr(maglev, "table", None)

    heard = plan.desired(TWO_CHAINS, LINKS, {}, restarted, restarted)

    assert heard.plane == served.plane


def test_a_link_of_an_unknown_pod_is_no_reason_to_plan_a_chain_again() -> None:
    early = link(9, "nobody-1", "lan", filter_slot=9)

    before, after = again(TWO_CHAINS, {**LINKS, early.pod_uid: (early,)})

    assert all(after.parts[key] is before.parts[key] for key in (EDGE_KEY, CORE_KEY))
    assert list(changes(before, after)) == [Set("filters", early.ifindex, 9)]


def test_sessions_are_kept_while_any_chain_has_a_link_in_their_cross_connection() -> None:
    """The last link of a deleted pod vanishes, and the chains of the other links are not planned again."""
    deleted = cluster(pod("client-1", "client"), pod("firewall-2", "firewall"))
    served = plan.desired(TWO_FIREWALLS, by_pod(ALL), {}, Plan(), Plan())
    before = plan.desired(deleted, by_pod(ALL), {}, served, served)
    alone, left = cluster(pod("client-1", "client")), by_pod((CLIENT,))

    after = plan.desired(deleted, {uid: LINKS[uid] for uid in deleted.replicas}, {}, before, before)
    last = plan.desired(alone, left, {}, after, after)

    assert not [change for change in changes(before, after) if isinstance(change, Forget)]
    assert [change.connection for change in changes(after, last) if isinstance(change, Forget)] == [
        served.numbers.of[numbered(EDGE, EDGE.cross_connections[1])]
    ]
