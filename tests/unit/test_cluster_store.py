"""Which keys a change is about, and what is found for a key; nothing is left of what is gone."""

from __future__ import annotations

from typing import Any

from controller.cluster.snapshot import ChainObject, Pod, chain_object, pod_of
from controller.cluster.store import Store
from controller.cluster.workloads import Workload, workload_of
from kube import objects
from tests.unit import objects as samples

Json = dict[str, Any]
EDGE, OTHER = ("telco", "edge"), ("telco", "other")


def chain(name: str = "edge", **metadata: Any) -> ChainObject:
    obj = samples.chain()
    obj["metadata"] |= {"name": name, "uid": f"uid-{name}", **metadata}
    return chain_object(obj)


def pod(chain_label: str, version: str = "1", phase: str = "Running") -> Pod:
    obj = samples.pod("nat-1", "nat", phase=phase)
    obj["metadata"]["resourceVersion"] = version
    obj["metadata"]["labels"]["sfc.dev/chain"] = chain_label
    return pod_of(obj)


def connection(name: str, owner: ChainObject | None = None) -> Json:
    owners = [objects.owned_by(owner.obj, controller=True)] if owner else []
    return {"metadata": {"namespace": "telco", "name": name, "ownerReferences": owners}}


def network(owner: str = "sfc-cluster-controller", version: str = "1") -> Json:
    labels = {"app.kubernetes.io/managed-by": owner}
    return {"metadata": {"namespace": "telco", "name": "sfc", "labels": labels, "resourceVersion": version}}


def test_a_chain_that_comes_goes_or_leaves_is_about_the_network_too_and_one_that_changes_is_not() -> None:
    store = Store()
    first, changed, leaving = chain(), chain(generation=2), chain(deletionTimestamp="2027-01-01T12:00:00Z")

    assert store.chain(None, first) == {EDGE, ("telco", "")}
    assert store.chain(first, changed) == {EDGE}
    assert store.chain(changed, leaving) == {EDGE, ("telco", "")}
    assert store.part(EDGE).found is None
    assert store.place("telco").chains == ()


def test_a_pod_that_gets_the_label_of_another_chain_is_about_both() -> None:
    store = Store()

    assert store.pod(None, pod("edge")) == {EDGE}
    assert store.pod(pod("edge"), pod("other")) == {EDGE, OTHER}
    assert [len(store.part(key).pods) for key in (EDGE, OTHER)] == [0, 1]


def workload(chain_label: str, replicas: int = 0) -> Workload:
    labels = {"sfc.dev/chain": chain_label, "sfc.dev/stage": "nat"}
    metadata = {"namespace": "telco", "name": "nat", "labels": labels}
    return workload_of({"kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}})


def test_a_workload_is_about_the_chains_that_it_names_if_they_exist() -> None:
    store = Store()

    assert store.workload(None, workload("edge")) == set()
    store.chain(None, chain())
    assert store.workload(workload("edge"), workload("edge", 2)) == {EDGE}
    assert [w.replicas for w in store.part(EDGE).workloads] == [2]
    assert store.workload(workload("edge", 2), workload("other")) == {EDGE}
    assert store.workload(workload("other"), None) == set()
    assert store.part(EDGE).workloads == ()


def test_a_version_of_a_pod_that_differs_in_nothing_that_counts_is_no_change() -> None:
    assert pod("edge", "1") == pod("edge", "2")
    assert pod("edge", "1") != pod("edge", "2", phase="Failed")


def test_a_cross_connection_is_about_the_chain_that_made_it_and_the_one_that_wants_its_name() -> None:
    store = Store()
    store.chain(None, chain())
    found = connection("edge.client.lan.firewall.left", chain("other"))

    assert store.connection(None, found) == {EDGE, OTHER}
    assert store.part(EDGE).present["edge.client.lan.firewall.left"] is found
    assert store.part(EDGE).owned == ()
    assert store.connection(None, connection("somebodys-own")) == set()


def test_a_network_is_about_the_chains_only_when_it_comes_goes_or_is_no_longer_ours() -> None:
    store = Store()
    store.chain(None, chain())

    assert store.network(None, network()) == {("telco", ""), EDGE}
    assert store.network(network(), network(version="2")) == {("telco", "")}
    assert store.network(network(version="2"), network("somebody")) == {("telco", ""), EDGE}
    assert store.network(network("somebody"), None) == {("telco", ""), EDGE}


def test_a_refusal_of_the_network_is_about_the_chains_when_it_is_news() -> None:
    store = Store()
    store.chain(None, chain())

    assert store.refuse("telco", "exceeded quota") == {EDGE}
    assert store.refuse("telco", "exceeded quota") == set()
    assert store.refuse("telco", None) == {EDGE}
    assert store.refuse("telco", None) == set()


def test_pods_without_their_chain_are_worked_on() -> None:
    store = Store()
    store.pod(None, pod("edge"))

    assert store.keys() == {EDGE}
    assert store.part(EDGE).found is None


def test_nothing_is_left_of_what_is_gone() -> None:
    store, made = Store(), chain()
    objs = [connection("edge.client.lan.firewall.left", made), connection("edge.x.y.z.a")]
    for change in ((None, made), (made, None)):
        store.chain(*change)
    for obj in objs:
        store.connection(None, obj)
        store.connection(obj, None)
    store.network(None, network())
    store.network(network(), None)
    store.pod(None, pod("edge"))
    store.pod(pod("edge"), None)
    store.refuse("telco", "x")
    store.refuse("telco", None)

    assert not any(value for name, value in vars(store).items() if name != "_lock")
