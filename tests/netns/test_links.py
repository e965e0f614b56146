"""Links on a real kernel: what is attached, what is listed, and what a pod cannot reach."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.errors import LinkError
from controller.node.kernel.links import MAX_ALIAS, HostEnd, Identity, Links
from controller.node.kernel.tc import FILTER_PRIORITY
from controller.node.plane import maglev
from controller.node.plane.model import PROGRAM, HostLink, LinkEntry, LinkState
from sfc.chain import Interface, Side
from tests.netns import node as lab

NODE_ADDRESSES = {4: "192.0.2.1", 6: "2001:db8:f::1"}
PORT = 5000
CONNECTION = 4711
BROADCAST = "ff:ff:ff:ff:ff:ff"
FORGED_NEIGHBOURS = {"broadcast": lambda host: BROADCAST, "host end": lambda host: host.mac}

INTERFACE = Interface("net1", lab.MAC, ("10.1.0.2/24", "2001:db8:1::2/64"))


@pytest.fixture
def node() -> Iterator[str]:
    with lab.namespace("node") as name, lab.inside(name):
        for address in ("192.0.2.1/32", "2001:db8:f::1/128"):
            lab.run("ip", "address", "add", address, "dev", "lo")
        for family in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
        yield name


@pytest.fixture
def links(node: str) -> Iterator[Links]:
    opened = Links()
    yield opened
    opened.close()


@pytest.fixture
def pod() -> Iterator[str]:
    with lab.namespace("pod") as name:
        yield name


def create(links: Links, pod: str, name: str = "sfc000000000001", slot: int = 7) -> HostEnd:
    with lab.opened(pod) as netns:
        host = links.create(name, Identity(lab.POD_UID, "net1", lab.DRAIN_ID, slot), INTERFACE, netns)
        links.configure(INTERFACE, netns)
    return host


def filters(ifindex: int) -> set[tuple[int, str]]:
    [device] = [link["ifname"] for link in lab.show("link") if link["ifindex"] == ifindex]
    lines = lab.run("tc", "filter", "show", "dev", device, "ingress").splitlines()
    words = [line.split() for line in lines if "handle" in line]
    return {(int(w[w.index("pref") + 1]), w[w.index("flowid") + 1] if "flowid" in w else "") for w in words}


def send_to_node(pod: str, version: int, neighbour: str | None, node_end: str = "net1") -> bytes | None:
    """The data that reaches a socket of the node that listens on every address; None without any."""
    address = NODE_ADDRESSES[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    lab.run("ip", "-n", pod, f"-{version}", "route", "replace", address, "dev", node_end)
    if neighbour:
        lab.run("ip", "-n", pod, "neighbour", "replace", address, "lladdr", neighbour, "dev", node_end)
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", PORT))
        receiver.settimeout(0.3)
        with lab.inside(pod), socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"from the pod", (address, PORT))
        try:
            return receiver.recv(100)
        except TimeoutError:
            return None


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("neighbour", [None, *FORGED_NEIGHBOURS])
def test_a_pod_cannot_reach_its_node_through_an_unwired_link(
    links: Links, pod: str, version: int, neighbour: str | None
) -> None:
    host = create(links, pod)

    arrived = send_to_node(pod, version, FORGED_NEIGHBOURS[neighbour](host) if neighbour else None)

    assert arrived is None


@pytest.mark.parametrize("version", [4, 6])
def test_it_is_the_shut_host_end_that_keeps_the_pod_away(links: Links, pod: str, version: int) -> None:
    host = create(links, pod)
    family, key, value = {4: ("ipv4", "rp_filter", "0"), 6: ("ipv6", "disable_ipv6", "0")}[version]
    Path(f"/proc/sys/net/{family}/conf/sfc000000000001/{key}").write_text(value)

    arrived = send_to_node(pod, version, host.mac)

    assert arrived == b"from the pod"


def test_the_host_end_answers_no_arp_and_has_no_address(links: Links, pod: str) -> None:
    create(links, pod)

    [link] = lab.show("address", "show", "dev", "sfc000000000001")
    assert "NOARP" in link["flags"]
    assert link["addr_info"] == []


def test_a_frame_for_elsewhere_is_not_forwarded_by_the_node(links: Links, pod: str) -> None:
    host = create(links, pod)

    with lab.namespace("elsewhere") as elsewhere:
        lab.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", elsewhere)
        for at, device, address in ((("-n", elsewhere), "eth0", "198.51.100.2/24"), ((), "uplink", "198.51.100.1/24")):
            lab.run("ip", *at, "address", "add", address, "dev", device)
            lab.run("ip", *at, "link", "set", device, "up")
        lab.run("ip", "-n", pod, "route", "add", "198.51.100.2", "dev", "net1")
        lab.run("ip", "-n", pod, "neighbour", "add", "198.51.100.2", "lladdr", host.mac, "dev", "net1")
        with lab.inside(elsewhere):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", PORT))
        receiver.settimeout(0.3)
        with receiver, lab.inside(pod), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"through the node", ("198.51.100.2", PORT))

            with pytest.raises(TimeoutError):
                receiver.recv(100)


def test_what_create_writes_on_the_link_list_reads_back(links: Links, pod: str) -> None:
    host = create(links, pod, slot=4095)
    links.attach(host.ifindex, 4095, lab.program(), lab.PROGRAM_NAME)

    shown = links.list()

    assert shown[0].program
    assert tuple(replace(link, program=None) for link in shown) == (
        HostLink(host.ifindex, "sfc000000000001", 4095, lab.POD_UID, "net1", lab.DRAIN_ID, filter_slot=4095),
    )


def test_a_pod_without_a_known_uid_is_read_back_without_one() -> None:
    identity = Identity("", "net1", lab.DRAIN_ID, 5)

    assert Identity.parse(str(identity)) == identity


def test_the_longest_identity_is_written_and_read_back(links: Links, pod: str) -> None:
    identity = Identity(lab.POD_UID, "i" * 15, "d" * 32, 4095, "c" * 63, "s" * 63)

    with lab.opened(pod) as netns:
        links.create("sfc000000000001", identity, INTERFACE, netns)

    [shown] = links.list()
    assert (shown.pod_uid, shown.interface, shown.drain_id) == (lab.POD_UID, "i" * 15, "d" * 32)
    assert (shown.slot, shown.chain, shown.stage) == (4095, "c" * 63, "s" * 63)
    assert len(str(identity)) == 224 <= MAX_ALIAS


def test_a_link_of_the_version_before_is_read_back_without_chain_and_stage(links: Links, pod: str) -> None:
    host = create(links, pod)
    lab.run("ip", "link", "set", "sfc000000000001", "alias", f"sfc/1 {lab.POD_UID} net1 {lab.DRAIN_ID} 5")

    assert links.list() == (HostLink(host.ifindex, "sfc000000000001", 5, lab.POD_UID, "net1", lab.DRAIN_ID, None),)


@pytest.mark.parametrize(
    "alias",
    [
        "", "uplink", "sfc/1", "sfc/2 u net1 d 5", "sfc/1 u net1 d x", "sfc/1 u net1 d 5 6", "sfc/1 u net1 d 5 c s",
        "sfc/2 u net1 d x c s", "sfc/3 u net1 d 5 c s",
    ],
)  # fmt: skip
def test_links_with_another_alias_are_not_ours(links: Links, alias: str) -> None:
    lab.run("ip", "link", "add", "sfcother", "type", "veth", "peer", "name", "other")
    lab.run("ip", "link", "set", "sfcother", "alias", alias)

    assert links.list() == ()


def test_attach_replaces_our_filter_and_leaves_others(links: Links, pod: str) -> None:
    host = create(links, pod)
    lab.run("tc", "qdisc", "add", "dev", "sfc000000000001", "clsact")
    lab.run("tc", "filter", "add", "dev", "sfc000000000001", "ingress", "pref", "10", "protocol", "all", "bpf", "da",
            "bytecode", "1,6 0 0 4294967295")  # fmt: skip
    foreign = filters(host.ifindex)

    links.attach(host.ifindex, 7, lab.program(), lab.PROGRAM_NAME)
    links.attach(host.ifindex, 0x123, lab.program(), lab.PROGRAM_NAME)

    assert filters(host.ifindex) - foreign == {(FILTER_PRIORITY, ":123")}
    assert len(foreign) == 1
    assert foreign < filters(host.ifindex)
    assert [link.filter_slot for link in links.list()] == [0x123]


def test_detach_removes_our_filter_alone_and_may_come_twice(links: Links, pod: str) -> None:
    host = create(links, pod)
    links.attach(host.ifindex, 7, lab.program(), lab.PROGRAM_NAME)
    lab.run("tc", "filter", "add", "dev", "sfc000000000001", "ingress", "pref", "10", "protocol", "all", "bpf", "da",
            "bytecode", "1,6 0 0 4294967295")  # fmt: skip

    links.detach(host.ifindex)
    links.detach(host.ifindex)

    assert {priority for priority, _ in filters(host.ifindex)} == {10}
    assert [link.filter_slot for link in links.list()] == [None]
    assert "clsact" in lab.run("tc", "qdisc", "show", "dev", "sfc000000000001")


def test_detach_succeeds_where_nothing_was_ever_attached(links: Links, pod: str) -> None:
    host = create(links, pod)

    links.detach(host.ifindex)
    links.detach(99999)

    assert "clsact" not in lab.run("tc", "qdisc", "show", "dev", "sfc000000000001")


def test_attach_to_a_link_that_went_meanwhile_says_so(links: Links) -> None:
    with pytest.raises(LinkError, match="cannot attach the filter to link 99999: No such device"):
        links.attach(99999, 7, lab.program(), lab.PROGRAM_NAME)


def test_a_filter_sees_frames_of_the_pod(links: Links, pod: str) -> None:
    host = create(links, pod)
    Path("/proc/sys/net/ipv4/conf/sfc000000000001/rp_filter").write_text("0")
    assert send_to_node(pod, 4, host.mac) == b"from the pod"

    links.attach(host.ifindex, 7, lab.program(2), lab.PROGRAM_NAME)

    assert send_to_node(pod, 4, host.mac) is None


def test_a_link_whose_other_end_stays_on_the_node_gets_its_frames_too(
    links: Links, node: str, pod: str, datapath: Datapath
) -> None:
    """bpf_redirect_peer works only when the other end is in another network namespace."""
    create(links, pod, "sfc000000000001", slot=7)
    create(links, node, "sfc000000000002", slot=8)
    shown = {link.slot: link for link in links.list()}
    for slot, side in ((7, Side.UPSTREAM), (8, Side.DOWNSTREAM)):
        entry = LinkEntry(shown[slot].ifindex, CONNECTION, side, LinkState.SERVING, shown[slot].paired)
        datapath.set_link(slot, entry)
        datapath.set_targets(CONNECTION, side, maglev.table([("only", slot)]))
        links.attach(entry.ifindex, slot, datapath.program_fd, PROGRAM)
    frame = (
        bytes.fromhex("020000000002020000000001")
        + b"\x88\xb5"
        + b"sixty bytes at least, as the smallest frame has".ljust(46)
    )

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as receiver:
        receiver.bind(("net1", 0x88B5))
        receiver.settimeout(60)
        with lab.inside(pod), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("net1", 0))
            sender.send(frame)
        received = receiver.recv(200)

    for slot, side in ((7, Side.UPSTREAM), (8, Side.DOWNSTREAM)):
        datapath.clear_link(slot)
        datapath.clear_targets(CONNECTION, side)
    assert (shown[7].paired, shown[8].paired) == (True, False)
    assert received == frame


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(lambda links, pod, spare: links.delete("sfc000000000001"), id="deleted"),
        pytest.param(
            lambda links, pod, spare: lab.run("ip", "-n", pod, "link", "set", "net1", "down"), id="down in the pod"
        ),
        pytest.param(
            lambda links, pod, spare: lab.run("ip", "link", "set", "sfc000000000001", "down"), id="down on the node"
        ),
        pytest.param(lambda links, pod, spare: create(links, spare, "sfc000000000002"), id="created"),
    ],
)
def test_monitor_reports_what_happens_to_our_links(links: Links, event: Callable[[Links, str, str], object]) -> None:
    with lab.namespace("pod") as pod, lab.namespace("spare") as spare:
        create(links, pod)
        changed = threading.Event()
        links.monitor(changed.set)

        event(links, pod, spare)

        assert changed.wait(60)


def test_monitor_reports_a_pod_that_died_with_its_namespace(links: Links) -> None:
    gone = threading.Event()
    with lab.namespace("dying") as pod:
        create(links, pod)
        links.monitor(lambda: gone.set() if not links.list() else None)

    assert gone.wait(10)


def test_monitor_is_silent_about_other_links(links: Links) -> None:
    changed = threading.Event()
    links.monitor(changed.set)

    lab.run("ip", "link", "add", "sfcother", "type", "veth", "peer", "name", "other")
    lab.run("ip", "link", "del", "sfcother")

    assert not changed.wait(0.5)


def test_close_ends_every_thread_and_descriptor(node: str) -> None:
    before = lab.held()

    links = Links()
    links.monitor(lambda: None)
    links.list()
    links.close()

    assert lab.held() - before == set()


def test_no_answer_of_the_kernel_is_kept_unread(links: Links, pod: str) -> None:
    for _ in range(3):
        host = create(links, pod)
        links.attach(host.ifindex, 7, lab.program(), lab.PROGRAM_NAME)
        links.list()
        links.detach(host.ifindex)
        links.delete("sfc000000000001")

    unread, _, _ = select.select([links._requests._socket], [], [], 0)
    assert not unread
