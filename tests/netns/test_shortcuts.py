"""Frames take the shortcut of the agent that leads, and otherwise the filter beneath it, and no change loses one."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from bcc import BPF
from bcc.libbcc import lib

from controller.node.kernel import tcx
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Identity, Links
from controller.node.plane.far import GENERATIONS, generation
from controller.node.plane.model import CHOSEN_IFINDEX, PROGRAM, SLOTS, HostLink, LinkEntry, LinkState
from sfc.chain import Interface, Side
from tests.hash_key import HASH_KEY
from tests.netns import node as lab
from tests.netns.topology import Echo
from tests.netns.world import World, world_of

SERVER = ("10.2.0.1", Echo.PORT)
ROOT = Path(__file__).parents[2]
AGENT = """
import sys, time
from pathlib import Path
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Links
from controller.node.plane.model import PROGRAM
from tests.hash_key import HASH_KEY

datapath, links = Datapath.open(Path(sys.argv[1]), hash_key=HASH_KEY), Links()
datapath.take_over()
for link in links.list():
    links.attach(link.ifindex, link.slot, datapath.program_fd, PROGRAM)
    links.give_shortcut(link.ifindex, datapath.shortcut)
datapath.shortcut.open()
print("leads", flush=True)
time.sleep(60)
"""
COUNTER = b"""
BPF_ARRAY(frames, u64, 1);

int other(struct __sk_buff *skb)
{
    if (skb->protocol == __constant_htons(0x88b5))
        frames.increment(0);
    return -1;
}
"""
SLOT = 7
FRAME = bytes.fromhex("020000000002020000000001") + b"\x88\xb5" + bytes(46)
INTERFACE = Interface("net1", lab.MAC, ("10.1.0.2/24",))


@pytest.fixture
def two(datapath: Datapath) -> Iterator[World]:
    with world_of("short", {"firewall": "bridge", "nat": "nat"}, datapath, replicas=2) as world:
        yield world


def arrives(world: World) -> bool:
    ping = ("ping", "-c", "1", "-W", "1", SERVER[0])
    return " 0% packet loss" in world.of("client")[0].run(*ping, check=False)


@contextmanager
def without_loss(world: World) -> Iterator[None]:
    """Five hundred packets and answers a second from each client, and a connection for each: nothing is lost."""
    clients = world.of("client")
    command = ("ping", "-q", "-i", "0.002", "-W", "1", SERVER[0])
    pings = [
        subprocess.Popen(["ip", "netns", "exec", each.namespace, *command], stdout=subprocess.PIPE, text=True)
        for each in clients
    ]
    established = [world.connect(each, SERVER) for each in clients for _ in range(10)]
    try:
        yield
    finally:
        for ping in pings:
            ping.send_signal(2)
        outputs = [ping.communicate(timeout=10)[0] for ping in pings]
    assert all(" 0% packet loss" in output for output in outputs), outputs
    assert all(connection.echo(b"still there?") for connection in established)
    assert not world.dropped()


def close_filters(world: World) -> None:
    """Makes every filter drop what comes to it."""
    for link in world.node.links.list():
        world.node.links.attach(link.ifindex, link.slot, lab.program(2), lab.PROGRAM_NAME)


def shortcuts(world: World) -> set[tuple[int, ...]]:
    """What the links have at their hooks."""
    return {link.shortcuts for link in world.node.links.list()}


def test_frames_take_the_shortcut_while_its_agent_leads_and_the_filter_otherwise(
    two: World, datapath: Datapath
) -> None:
    close_filters(two)

    by_shortcut = arrives(two)
    datapath.shortcut.shut()
    by_filter = arrives(two)
    datapath.shortcut.open()

    assert shortcuts(two) == {(datapath.shortcut.number,)}
    assert (by_shortcut, by_filter, arrives(two)) == (True, False, True)


def test_links_that_change_between_shortcut_and_filter_lose_nothing(two: World, datapath: Datapath) -> None:
    links = two.node.links.list()

    with without_loss(two):
        for _ in range(50):
            datapath.shortcut.shut()
            datapath.shortcut.open()
        for _ in range(3):
            for link in links:
                two.node.links.take_shortcuts(link.ifindex)
            without = shortcuts(two)
            two.node.reconcile()
            two.node.shorten()

    assert without == {()}
    assert shortcuts(two) == {(datapath.shortcut.number,)}


def test_an_agent_that_is_killed_leaves_frames_to_the_filters(two: World, datapath: Datapath) -> None:
    datapath.shortcut.shut()
    with without_loss(two):
        with lab.inside(two.node.namespace):
            agent = subprocess.Popen(
                [sys.executable, "-c", AGENT, datapath._pin_root], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
        assert agent.stdout
        led = agent.stdout.readline()
        theirs = shortcuts(two)
        agent.kill()
        agent.communicate()
        after = arrives(two)
    close_filters(two)

    assert led == "leads\n"
    assert len(theirs) == 1
    assert theirs.isdisjoint({(), (datapath.shortcut.number,)})
    assert after
    assert shortcuts(two) == theirs
    assert not arrives(two)


def test_an_upgrade_exchanges_the_shortcuts_and_loses_nothing(two: World, datapath: Datapath) -> None:
    newer = Datapath.open(datapath._pin_root, hash_key=HASH_KEY)
    try:
        with without_loss(two):
            hand_over(two, newer)
            two.node.shorten()
            exchanged = shortcuts(two)
            hand_over(two, datapath)
            two.node.shorten()

        assert exchanged == {(newer.shortcut.number,)}
        assert shortcuts(two) == {(datapath.shortcut.number,)}
    finally:
        newer.close()


def test_a_version_without_shortcuts_takes_over_with_the_filters_and_loses_nothing(
    two: World, datapath: Datapath, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = Datapath.open(bpffs / "older", hash_key=HASH_KEY)
    monkeypatch.setattr(older.shortcut, "open", lambda: None)
    slots = [slot for replica in two.node.replicas for slot in replica.slots.values()]
    try:
        with without_loss(two):
            hand_over(two, older)
            before = older.counters.traffic(slots)
            assert arrives(two)
            after = older.counters.traffic(slots)
            hand_over(two, datapath)
            two.node.shorten()

        assert all(
            after[slot].received_packets > before[slot].received_packets for slot in two.of("client")[0].slots.values()
        )
        assert shortcuts(two) == {(datapath.shortcut.number,)}
    finally:
        older.unpin()
        older.close()


def hand_over(world: World, datapath: Datapath) -> None:
    """The agent that leads retires, and one with this data path leads."""
    world.node.datapath.shortcut.shut()
    datapath.take_over()
    world.node.lead(datapath)
    world.node.reconcile()


def test_links_that_an_earlier_version_made_keep_to_their_filters(
    datapath: Datapath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Links, "_free_index", lambda links, slot: 0)

    with world_of("former", {"firewall": "bridge", "nat": "nat"}, datapath, replicas=1) as world:
        listed = world.node.links.list()

        assert arrives(world)
        assert world.connect(world.of("client")[0], SERVER).echo(b"hello")
        assert {(link.shortens, link.shortcuts) for link in listed} == {(False, ())}
        assert max(link.ifindex for link in listed) < CHOSEN_IFINDEX


def test_on_a_kernel_without_tcx_frames_take_the_filters(datapath: Datapath, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(ifindex: int) -> list[int]:
        raise OSError(errno.EINVAL, "no such type of attachment")

    monkeypatch.setattr(tcx, "_programs", refuse)

    with world_of("plain", {"firewall": "bridge", "nat": "nat"}, datapath, replicas=1) as world:
        assert not world.node.links.tcx
        assert world.connect(world.of("client")[0], SERVER).echo(b"hello")
        assert {link.shortens for link in world.node.links.list()} == {True}
        close_filters(world)
        assert not arrives(world)


@pytest.fixture
def link(datapath: Datapath) -> Iterator[tuple[Links, HostLink, str]]:
    """Links, one link with our filter and shortcut, and its pod."""
    with lab.namespace("node") as node, lab.inside(node), lab.namespace("pod") as pod:
        links = Links()
        try:
            host = made(links, pod)
            links.attach(host, SLOT, datapath.program_fd, PROGRAM)
            links.give_shortcut(host, datapath.shortcut)
            datapath.shortcut.open()
            yield links, links.list()[0], pod
        finally:
            links.close()
            datapath.clear_link(SLOT)


def made(links: Links, pod: str, name: str = "sfc000000000001") -> int:
    with lab.opened(pod) as netns:
        host = links.create(name, Identity(lab.POD_UID, "net1", lab.DRAIN_ID, SLOT), INTERFACE, netns)
        links.configure(INTERFACE, netns)
    return host.ifindex


def test_programs_of_others_get_what_is_not_ours_and_stay(
    link: tuple[Links, HostLink, str], datapath: Datapath, bpffs: Path
) -> None:
    links, host, pod = link
    others = {way: BPF(text=COUNTER) for way in ("tcx", "clsact")}
    fds = {way: bpf.load_func(b"other", BPF.SCHED_CLS).fd for way, bpf in others.items()}
    tcx._attach(host.ifindex, fds["tcx"], 0)
    lib.bpf_obj_pin(fds["clsact"], str(bpffs / "other").encode())
    lab.run("tc", "filter", "add", "dev", host.name, "ingress", "pref", "10", "protocol", "all", "bpf", "da",
            "object-pinned", str(bpffs / "other"))  # fmt: skip

    def counted(entry: LinkEntry) -> dict[str, int]:
        datapath.set_link(SLOT, entry)
        before = {way: bpf[b"frames"][0].value for way, bpf in others.items()}
        with lab.inside(pod):
            lab.run("ip", "link", "set", "net1", "arp", "off")
            send("net1")
        return {way: bpf[b"frames"][0].value - before[way] for way, bpf in others.items()}

    of_another = counted(LinkEntry(host.ifindex + SLOTS, 1, Side.UPSTREAM, LinkState.SERVING))
    ours = counted(LinkEntry(host.ifindex, 1, Side.UPSTREAM, LinkState.SERVING))
    links.give_shortcut(host.ifindex, datapath.shortcut)
    both = tcx._programs(host.ifindex)
    links.take_shortcuts(host.ifindex)
    links.detach(host.ifindex)

    assert of_another == {"tcx": 1, "clsact": 1}
    assert ours == {"tcx": 0, "clsact": 0}
    assert len(both) == 2
    assert both[0] == datapath.shortcut.number
    assert tcx._programs(host.ifindex) == both[1:]
    assert "pref 10 " in lab.run("tc", "filter", "show", "dev", host.name, "ingress")
    (bpffs / "other").unlink()


def send(interface: str) -> None:
    """Sends one frame that nobody else sends."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        sender.send(FRAME)


def test_shortcuts_that_former_agents_left_give_way_to_one(
    link: tuple[Links, HostLink, str], datapath: Datapath
) -> None:
    links, host, _ = link
    name = tcx.SHORTCUT.encode()
    source = b"int %s(struct __sk_buff *skb) { return -1; }" % name
    former = [BPF(text=source).load_func(name, BPF.SCHED_CLS).fd for _ in range(2)]
    links.take_shortcuts(host.ifindex)
    for fd in former:
        tcx._attach(host.ifindex, fd, 0)
    [left] = links.list()

    links.give_shortcut(host.ifindex, datapath.shortcut)

    assert len(left.shortcuts) == 2
    assert datapath.shortcut.number not in left.shortcuts
    assert links.list()[0].shortcuts == (datapath.shortcut.number,)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda links, ifindex, shortcut: links.give_shortcut(ifindex, shortcut), id="giving"),
        pytest.param(lambda links, ifindex, shortcut: links.take_shortcuts(ifindex), id="taking"),
    ],
)
def test_a_shortcut_may_be_given_and_taken_twice_and_the_link_may_be_gone(
    link: tuple[Links, HostLink, str], datapath: Datapath, act: Callable[..., None]
) -> None:
    links, host, _ = link

    act(links, host.ifindex, datapath.shortcut)
    act(links, host.ifindex, datapath.shortcut)
    links.delete(host.name)
    act(links, host.ifindex, datapath.shortcut)

    assert links.list() == ()


def test_an_index_ends_in_the_slot_and_passes_over_one_that_is_taken(link: tuple[Links, HostLink, str]) -> None:
    links, host, _ = link
    links._generations[SLOT] = count(5)
    taken = CHOSEN_IFINDEX | 5 * SLOTS | SLOT
    lab.run("ip", "link", "add", "name", "other", "index", str(taken), "type", "veth", "peer", "name", "another")

    with lab.namespace("elsewhere") as elsewhere:
        ifindex = made(links, elsewhere, "sfc000000000002")

    assert ifindex == CHOSEN_IFINDEX | 6 * SLOTS | SLOT
    assert host.ifindex % SLOTS == SLOT
    assert host.shortens


def test_other_nodes_can_tell_a_link_from_the_63_before_in_its_slot_whatever_other_slots_do(
    link: tuple[Links, HostLink, str],
) -> None:
    """They may know one of those from an old view, or from a session that was silent for long (plane/far.py)."""
    links, _, _ = link

    published = set()
    for _ in range(GENERATIONS):
        published.add(generation(links._free_index(SLOT)))
        for other in range(100, 100 + GENERATIONS - 1):
            links._free_index(other)

    assert len(published) == GENERATIONS


def test_no_link_gets_the_index_of_the_one_before_in_its_slot(link: tuple[Links, HostLink, str]) -> None:
    links, host, pod = link

    again = made(links, pod)  # under the same name: replaces it

    assert again != host.ifindex
    assert again % SLOTS == SLOT
