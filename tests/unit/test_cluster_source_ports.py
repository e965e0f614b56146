"""Who gets which source ports: from pods, written in YAML, to writes; and any life of a stage, against an API server
in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.cluster import plan, source_ports
from controller.cluster.loop import apply
from controller.cluster.snapshot import chain_object, pod_of
from controller.cluster.store import Store
from controller.cluster.writes import Assign, Outcome, Patch, Record, Write
from kube.api import ApiError, Collection
from sfc import annotation
from sfc.reading import chain_of
from sfc.source_ports import PortRange, Share, Shares, every
from tests.unit import objects

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
GATE = {"name": "sfc.dev/source-ports"}
PODS = "/api/v1/namespaces/telco/pods"

Json = dict[str, Any]


def chain(slices: int | None = 2) -> Json:
    obj = objects.chain()
    if slices:
        obj["spec"]["stages"][2]["interfaces"][1]["sourcePorts"] = {"slices": slices}
    return obj


def pod(name: str, *, ports: str | None = None, gates: Iterable[Json] = (), **status: Any) -> Json:
    """A NAT pod as the webhook leaves it; without ports it waits behind the gate."""
    obj: Json = yaml.safe_load(f"""
      apiVersion: v1
      kind: Pod
      metadata:
        name: {name}
        namespace: telco
        uid: uid-{name}
        resourceVersion: "7"
        creationTimestamp: "2027-01-01T11:00:00Z"
        labels: {{sfc.dev/chain: edge, sfc.dev/stage: nat}}
        annotations: {{}}
      spec: {{}}
      status: {{phase: Pending}}
    """)
    made = chain_of(chain(2))
    networks = annotation.merge("other", annotation.ours(made, made.stages[2], "d", lambda _: "s"), "telco")
    obj["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = networks
    if ports:
        obj["metadata"]["annotations"]["sfc.dev/source-ports"] = ports
    obj["spec"]["schedulingGates"] = [*gates, *([] if ports else [GATE])]
    obj["status"] |= status
    return obj


def waits(reason: str) -> Json:
    return {"conditions": [{"type": "sfc.dev/wired", "status": "False", "reason": reason}]}


def writes_of(chains: list[Json], pods: list[Json], **refused: str) -> list[Write]:
    """Those of a pass over the chain. `refused`: the API server's words, by stage."""
    store = Store()
    for obj in chains:
        store.chain(None, chain_object(obj))
    for obj in pods:
        store.pod(None, pod_of(obj))
    part = store.part(("telco", "edge"))
    words = {source_ports.path("telco", "edge", stage): said for stage, said in refused.items()}
    return [*plan.needed(part, NOW), *plan.told(part, Outcome(refused=words), NOW)]


def given_to(pods: list[Json], slices: int) -> list[tuple[str, str]]:
    """(name of the pod, ports)"""
    given = source_ports.given(list(map(pod_of, pods)), Shares(slices))
    return [(one.name, str(share and share.ports)) for one, share in given]


def planned(pods: list[Json], obj: Json | None = None) -> list[Write]:
    """What is done about the pods of the chain."""
    return [
        write
        for write in writes_of([] if obj == {} else [obj or chain()], pods)
        if isinstance(write, Assign | Patch)
        or (isinstance(write, Record) and write.obj["involvedObject"]["kind"] == "Pod")
    ]


def condition(write: Write) -> Json:
    assert isinstance(write, Patch)
    (found,) = write.body["status"]["conditions"]
    return found


# --- who gets what ----------------------------------------------------------------------------------------------------


def test_a_waiting_pod_gets_a_slice_that_no_living_replica_has() -> None:
    pods = [pod("a", ports="1024-33279"), pod("b")]

    assert given_to(pods, 2) == [("b", "33280-65535")]
    assert planned(pods) == [Assign("telco", "edge", "nat", Shares(2))]


def test_the_oldest_pods_come_first() -> None:
    old, new = pod("z"), pod("a")
    new["metadata"]["creationTimestamp"] = "2027-01-01T11:00:01Z"

    assert [name for name, _ in given_to([new, old], 1)] == ["z"]


def test_a_replica_that_is_over_has_given_its_slice_back_and_one_that_leaves_has_not() -> None:
    over = pod("a", ports="1024-33279", phase="Failed")
    leaving = pod("b", ports="33280-65535")
    leaving["metadata"]["deletionTimestamp"] = "2027-01-01T11:59:00Z"

    given_out = given_to([over, leaving, pod("c"), pod("d")], 2)

    assert [ports for _, ports in given_out] == ["1024-33279"]


def test_slices_of_another_size_are_given_where_no_living_replica_has_any_of_their_ports() -> None:
    halves = [pod("a", ports="1024-33279")]

    quarters = [ports for _, ports in given_to([*halves, pod("b"), pod("c"), pod("d")], 4)]

    assert sorted(quarters) == ["33280-49407", "49408-65535"]


def test_what_somebody_wrote_into_the_annotation_of_a_waiting_pod_counts_for_nothing() -> None:
    forged = pod("a")
    forged["metadata"]["annotations"]["sfc.dev/source-ports"] = "1024-65535"

    assert len(given_to([forged, pod("b")], 2)) == 2


def test_one_patch_writes_the_ports_for_readers_and_for_cni_and_opens_our_gate_alone() -> None:
    waiting = pod("a", gates=[{"name": "quota.example/ok"}])

    patch = source_ports.patch(pod_of(waiting), Share(3, PortRange(1024, 33279)))

    assert patch["metadata"]["uid"] == "uid-a"
    assert patch["metadata"]["resourceVersion"] == "7"
    assert patch["spec"] == {"schedulingGates": [{"name": "quota.example/ok"}]}
    assert patch["metadata"]["annotations"]["sfc.dev/source-ports"] == "1024-33279"
    elements = annotation.read(patch["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"])
    assert [e.get("cni-args", {}).get("sourcePorts") for e in elements] == [None, None, "1024-33279"]


def test_a_networks_annotation_that_nobody_can_read_is_left_to_multus() -> None:
    spoiled = pod("a")
    spoiled["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = "[{"

    patch = source_ports.patch(pod_of(spoiled), Share(3, PortRange(1024, 33279)))

    assert patch["metadata"]["annotations"] == {"sfc.dev/source-ports": "1024-33279", "sfc.dev/replica-number": "3"}


def test_a_pod_whose_stage_has_no_slices_any_more_goes_on_without() -> None:
    waiting = pod("a")

    assert planned([waiting], chain(slices=None)) == [Assign("telco", "edge", "nat", None)]
    patch = source_ports.patch(pod_of(waiting), None)
    assert patch["metadata"]["annotations"]["sfc.dev/source-ports"] is None
    assert patch["metadata"]["annotations"]["sfc.dev/replica-number"] is None
    assert "sourcePorts" not in patch["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]
    assert patch["spec"]["schedulingGates"] == []


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbered(name: str, number: int | None = None, ports: str | None = None) -> Json:
    """A pod that has a number, or waits for one."""
    obj = pod(name, ports=ports)
    if number is not None:
        obj["metadata"]["annotations"]["sfc.dev/replica-number"] = str(number)
        obj["spec"]["schedulingGates"] = []
    return obj


def numbers_of(pods: list[Json], shares: Shares) -> list[tuple[str, int]]:
    given = source_ports.given(list(map(pod_of, pods)), shares)
    return [(one.name, share.number) for one, share in given if share]


def test_a_stage_with_numbers_alone_gives_each_replica_one_and_no_ports() -> None:
    obj = chain(slices=None)
    obj["spec"]["stages"][2]["replicaNumbers"] = 3
    waiting = numbered("c")

    assert planned([numbered("a", 0), numbered("b", 2), waiting], obj) == [
        Assign("telco", "edge", "nat", Shares(3, of_ports=False))
    ]
    assert numbers_of([numbered("a", 0), numbered("b", 2), waiting], Shares(3, of_ports=False)) == [("c", 1)]
    patch = source_ports.patch(pod_of(waiting), Share(1))["metadata"]["annotations"]
    assert (patch["sfc.dev/replica-number"], patch["sfc.dev/source-ports"]) == ("1", None)
    assert "sourcePorts" not in patch["k8s.v1.cni.cncf.io/networks"]


def test_without_a_free_number_a_pod_waits_and_is_told_why() -> None:
    obj = chain(slices=None)
    obj["spec"]["stages"][2]["replicaNumbers"] = 1

    told, _ = planned([numbered("a", 0), numbered("b")], obj)

    assert condition(told)["message"] == (
        "ServiceFunctionChain telco/edge, stage nat: no number for this pod, as replicas hold all 1 numbers: raise "
        "replicaNumbers of stage nat, or have fewer replicas (a rolling update adds some; a number is free when its "
        "replica is gone)"
    )


def test_a_replica_that_is_over_has_given_its_number_back() -> None:
    over = numbered("a", 0)
    over["status"]["phase"] = "Succeeded"

    assert numbers_of([over, numbered("b")], Shares(1, of_ports=False)) == [("b", 0)]


def test_the_number_of_a_slice_is_its_index_and_a_larger_one_while_another_replica_has_that() -> None:
    """That one has a slice of another size."""
    first, of_eight = numbered("a", 0, "1024-33279"), numbered("b", 1, "1024-9087")

    assert numbers_of([first, numbered("c")], Shares(2)) == [("c", 1)]
    assert numbers_of([of_eight, numbered("c")], Shares(2)) == [("c", 2)]


# --- what waiting pods are told ---------------------------------------------------------------------------------------


FULL = [pod("a", ports="1024-33279"), pod("b", ports="33280-65535")]


def test_a_pod_without_a_free_slice_is_told_why_and_what_to_do() -> None:
    patch, record = planned([*FULL, pod("c")])

    told = condition(patch)
    assert isinstance(patch, Patch) and patch.path == f"{PODS}/c/status"
    assert patch.body["metadata"] == {"uid": "uid-c"}
    assert (told["type"], told["status"], told["reason"]) == ("sfc.dev/wired", "False", "NoFreeSourcePorts")
    assert told["message"] == (
        "ServiceFunctionChain telco/edge, stage nat: no source ports for this pod, as replicas hold all 2 slices: "
        "raise sourcePorts.slices of nat.outside, or have fewer replicas (a rolling update adds some; a slice is free "
        "when its replica is gone)"
    )
    assert isinstance(record, Record)
    assert (record.obj["type"], record.obj["reason"]) == ("Warning", "NoFreeSourcePorts")
    assert record.obj["involvedObject"]["name"] == "c"


def test_a_pod_is_told_once() -> None:
    (patch, _) = planned([*FULL, pod("c")])
    told = pod("c", conditions=[condition(patch)])

    assert planned([*FULL, told]) == []


def test_a_pod_that_goes_on_is_told_so_until_its_node_reports() -> None:
    given_now = pod("b", ports="33280-65535", **waits("NoFreeSourcePorts"))
    on_its_node = copy.deepcopy(given_now)
    on_its_node["spec"]["nodeName"] = "n1"

    (patch,) = planned([FULL[0], given_now])

    assert condition(patch)["reason"] == "NotScheduled"
    assert planned([FULL[0], on_its_node]) == []


def test_a_waiting_pod_whose_chain_or_stage_is_gone_is_told_so() -> None:
    nowhere = pod("c")
    nowhere["metadata"]["labels"]["sfc.dev/stage"] = "router"

    assert [condition(c)["reason"] for c in planned([pod("c")], {}) if isinstance(c, Patch)] == ["NoChain"]
    assert [condition(c)["reason"] for c in planned([nowhere]) if isinstance(c, Patch)] == ["NoStage"]


def test_the_chain_says_that_pods_wait_and_that_none_does() -> None:
    def said(pods: list[Json], **refused: str) -> tuple[Json, list[str]]:
        writes = writes_of([chain()], pods, **refused)
        (obj,) = [c.obj for c in writes if getattr(c, "path", "").endswith("servicefunctionchains/edge/status")]
        events = [c.obj["reason"] for c in writes if isinstance(c, Record) and "stages" not in c.obj]
        (found,) = [c for c in obj["status"]["conditions"] if c["type"] == "SourcePortsAssigned"]
        return found, events

    short, events = said([*FULL, pod("c"), pod("d")])
    enough, no_events = said(FULL)
    refused, refusal = said([pod("c")], nat="pod c: annotations are too long")

    assert (short["status"], short["reason"]) == ("False", "NoFreeSourcePorts")
    assert short["message"].startswith("stage nat: 2 pods without source ports, as replicas hold all 2 slices: raise")
    assert events.count("NoFreeSourcePorts") == 3
    assert (enough["status"], enough["reason"]) == ("True", "SlicesSuffice")
    assert "NoFreeSourcePorts" not in no_events
    assert (refused["status"], refused["reason"]) == ("False", "SourcePortsRefused")
    assert refused["message"] == (
        "the API server refuses the source ports of a pod of stage nat: pod c: annotations are too long; "
        "correct or delete the pod"
    )
    assert "SourcePortsRefused" in refusal


# --- any life of a stage ----------------------------------------------------------------------------------------------


class Server:
    """Pods, with the API server's optimistic locking."""

    def __init__(self) -> None:
        self.pods: dict[str, Json] = {}
        self.history: list[list[Json]] = [[]]
        self.number = 0
        self.fails_after = 1 << 30

    def changed(self) -> None:
        self.history.append([copy.deepcopy(p) for p in self.pods.values()])

    def create(self) -> None:
        self.number += 1
        name = f"nat-{self.number}"
        self.pods[name] = pod(name)
        self.changed()

    def pages(self, collection: Collection) -> Iterator[Json]:
        assert collection.params == {"labelSelector": "sfc.dev/chain=edge,sfc.dev/stage=nat"}
        yield {"items": copy.deepcopy(list(self.pods.values()))}

    def patch(self, path: str, body: Json, content_type: str) -> Json:
        name = path.rpartition("/")[2]
        self.fails_after -= 1
        if self.fails_after < 0:
            raise ApiError(0, "NoAnswer", path)
        found = self.pods[name]
        if found["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", path)
        found["metadata"]["annotations"] |= body["metadata"]["annotations"]
        found["metadata"]["resourceVersion"] += "1"
        found["spec"] |= body["spec"]
        self.changed()
        return found

    def living(self) -> dict[str, PortRange]:
        """What the replicas that are not over were given."""
        found = {}
        for name, one in self.pods.items():
            text = one["metadata"]["annotations"].get("sfc.dev/source-ports")
            if GATE not in one["spec"]["schedulingGates"] and one["status"]["phase"] != "Failed":
                ports = PortRange.parse(text)
                assert ports, "a pod goes on with its ports, or not at all"
                found[name] = ports
        numbers = [self.pods[name]["metadata"]["annotations"]["sfc.dev/replica-number"] for name in found]
        assert len(numbers) == len(set(numbers)), "no two living replicas have one number"
        return found


steps = st.one_of(
    st.just(("create", 0)),
    st.just(("create", 0)),
    st.tuples(st.sampled_from(["delete", "over", "touch", "pass", "crash"]), st.integers(0, 50)),
    st.tuples(st.just("slices"), st.integers(1, 9)),
)


def run_pass(server: Server, slices: int, back: int) -> None:
    """A pass that sees the pods as they were `back` changes ago."""
    pods = [pod_of(obj) for obj in server.history[max(0, len(server.history) - 1 - back)]]
    for write in source_ports.writes("telco", "edge", chain_of(chain(slices)), pods, NOW):
        if isinstance(write, Assign):
            try:
                apply(server, write)  # type: ignore[arg-type]
            except ApiError:
                return


@settings(max_examples=150)
@given(st.integers(1, 9), st.lists(steps, max_size=40))
def test_no_two_living_replicas_ever_share_a_port_however_late_the_watches_are(
    slices: int, life: list[tuple[str, int]]
) -> None:
    server = Server()
    for step, number in life:
        names = sorted(server.pods)
        victim = names[number % len(names)] if names else None
        if step == "create":
            server.create()
        elif step == "slices":
            slices = number
        elif step in ("pass", "crash"):
            server.fails_after = number % 3 if step == "crash" else 1 << 30
            run_pass(server, slices, number % 7)
        elif victim and step == "delete":
            del server.pods[victim]
        elif victim and step == "over":
            server.pods[victim]["status"]["phase"] = "Failed"
        elif victim:
            server.pods[victim]["metadata"]["resourceVersion"] += "0"
        server.changed()
        assert not any(a.overlaps(b) for a, b in combinations(server.living().values(), 2))

    server.fails_after = 1 << 30
    run_pass(server, slices, 0)
    pending = [one["spec"] for one in server.pods.values() if one["status"]["phase"] == "Pending"]
    waiting = [spec for spec in pending if GATE in spec["schedulingGates"]]
    free = [one for one in every(slices) if not any(one.overlaps(held) for held in server.living().values())]
    assert not (waiting and free), "nobody waits while there is a slice"


def test_a_pod_that_changes_while_it_is_given_ports_is_left_to_the_next_pass() -> None:
    server = Server()
    server.create()
    listed = [*server.pages(Collection(PODS, params={"labelSelector": "sfc.dev/chain=edge,sfc.dev/stage=nat"}))]
    server.pods["nat-1"]["metadata"]["resourceVersion"] = "8"
    server.pages = lambda collection: iter(listed)  # type: ignore[method-assign]

    apply(server, Assign("telco", "edge", "nat", Shares(2)))  # type: ignore[arg-type]

    assert server.living() == {}


def test_a_pod_that_the_api_server_refuses_to_change_keeps_no_other_from_its_ports() -> None:
    server = Server()
    for _ in range(3):
        server.create()
    patch = server.patch

    def refusing(path: str, body: Json, content_type: str) -> Json:
        if path.endswith("nat-1"):
            raise ApiError(422, "Invalid", "annotations are too long")
        return patch(path, body, content_type)

    server.patch = refusing  # type: ignore[method-assign]

    with pytest.raises(ApiError, match="pod nat-1: annotations are too long"):
        apply(server, Assign("telco", "edge", "nat", Shares(2)))  # type: ignore[arg-type]

    assert server.living().keys() == {"nat-2", "nat-3"}, "two slices, for the two that can take them"
