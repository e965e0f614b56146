"""One drain id, one pod."""

from __future__ import annotations

import threading

import pytest

from controller.node.cni.answer import CniError, Code
from controller.node.cni.drain_ids import DrainIds
from controller.node.plane.model import HostLink
from tests.unit import objects


class Links:
    """The node's links, and how often they were listed."""

    def __init__(self, *links: HostLink) -> None:
        self.links = list(links)
        self.listed = 0

    def __call__(self) -> list[HostLink]:
        self.listed += 1
        return self.links


def claim(ids: DrainIds, drain_id: str, pod_uid: str) -> None:
    with ids.claim(drain_id, pod_uid):
        pass


def refused(ids: DrainIds, drain_id: str, pod_uid: str) -> str:
    with pytest.raises(CniError) as error, ids.claim(drain_id, pod_uid):
        pass
    assert error.value.code == Code.DRAIN_ID_TAKEN
    return error.value.message


def test_all_interfaces_of_a_pod_have_its_id_and_the_links_are_listed_once() -> None:
    links = Links()
    ids = DrainIds(links)

    for number in range(50):
        claim(ids, f"id-{number}", f"uid-{number}")
        claim(ids, f"id-{number}", f"uid-{number}")

    assert links.listed == 1


def test_an_id_that_a_link_of_another_pod_has_is_refused() -> None:
    ids = DrainIds(Links(objects.link(1, "nat-1", "inside")))

    assert refused(ids, "drain-nat-1", "uid-copy").startswith(
        "args.cni.drainId is 'drain-nat-1', which is that of pod uid-nat-1 on this node: "
    )
    claim(ids, "drain-nat-1", "uid-nat-1")


def test_a_pod_whose_interfaces_say_different_ids_is_refused() -> None:
    ids = DrainIds(Links(objects.link(1, "nat-1", "inside")))

    assert "but another interface of this pod has 'drain-nat-1'" in refused(ids, "id-2", "uid-nat-1")


def test_an_id_is_free_again_when_its_pod_has_no_links() -> None:
    links = Links(objects.link(1, "nat-1", "inside"))
    ids = DrainIds(links)
    claim(ids, "drain-nat-1", "uid-nat-1")

    links.links.clear()

    claim(ids, "drain-nat-1", "uid-nat-2")


def test_an_id_counts_from_the_beginning_of_an_add_before_there_is_a_link() -> None:
    ids = DrainIds(Links())
    with ids.claim("id-1", "uid-1"):
        errors: list[str] = []
        other = threading.Thread(target=lambda: errors.append(refused(ids, "id-1", "uid-2")))
        other.start()
        other.join()

    assert len(errors) == 1
    claim(ids, "id-1", "uid-2")


def test_pods_of_a_runtime_that_gives_no_uids_are_not_checked() -> None:
    ids = DrainIds(Links())

    claim(ids, "id-1", "")
    claim(ids, "id-1", "")
    claim(ids, "id-1", "uid-1")
