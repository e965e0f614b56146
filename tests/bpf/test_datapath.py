"""The adapter of the data path: it observes all that it has set, and pinned maps survive the agent."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.node.kernel.counters import verdicts
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.errors import DatapathError
from controller.node.kernel.program import SOURCE
from controller.node.kernel.session_table import ANSWERED, PROVEN, WAS_PROVEN
from controller.node.plane import maglev
from controller.node.plane.model import Contest, DataPlane, LinkEntry, LinkState
from controller.node.plane.numbers import Numbered
from sfc.chain import Patience, Side
from tests.bpf.frames import arp, numbered, ping, tcp, udp
from tests.bpf.kinds import CONVERSATIONS
from tests.bpf.node import CONNECTION, Node, Runs
from tests.hash_key import HASH_KEY

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
_UDP = {side: bytes(udp(side)) for side in Side}
SECOND = 1_000_000_000


@pytest.fixture
def pin_root(bpffs: Path) -> Iterator[Path]:
    path = bpffs / "restarted"
    yield path
    for pin in path.glob("*"):
        pin.unlink()


def test_what_is_set_is_observed(node: Node) -> None:
    table = maglev.table([("a", 3), ("b", 4)])

    node.datapath.set_link(3, LinkEntry(12, CONNECTION, DOWN, LinkState.SERVING))
    node.datapath.set_link(4095, LinkEntry(13, 0xFFFFFFFF, UP, LinkState.GONE))
    node.datapath.set_targets(CONNECTION, DOWN, table)
    node.datapath.set_neighbour(CONNECTION, UP, "198.51.100.1", "02:ab:cd:ef:01:23")

    assert node.datapath.observe() == DataPlane(
        links={
            3: LinkEntry(12, CONNECTION, DOWN, LinkState.SERVING),
            4095: LinkEntry(13, 0xFFFFFFFF, UP, LinkState.GONE),
        },
        targets={(CONNECTION, DOWN): table},
        neighbours={(CONNECTION, UP, "198.51.100.1"): "02:ab:cd:ef:01:23"},
    )


def test_a_table_that_is_known_already_is_not_held_twice(node: Node) -> None:
    known = {(CONNECTION, DOWN): maglev.table([("a", 3)]), (CONNECTION, UP): maglev.table([("b", 4)])}
    node.datapath.set_targets(CONNECTION, DOWN, bytes(bytearray(known[CONNECTION, DOWN])))
    node.datapath.set_targets(CONNECTION, UP, maglev.table([("c", 5)]))

    observed = node.datapath.observe(known).targets

    assert observed[CONNECTION, DOWN] is known[CONNECTION, DOWN]
    assert observed[CONNECTION, UP] == maglev.table([("c", 5)])


def test_setting_again_changes_nothing_and_clearing_twice_succeeds(node: Node) -> None:
    for _ in range(2):
        node.link(3, DOWN)
        node.serve(UP, (4,))
        node.datapath.set_neighbour(CONNECTION, UP, "10.0.0.1", "02:00:00:00:00:01")
    once = node.datapath.observe()

    for _ in range(2):
        node.datapath.clear_link(3)
        node.datapath.clear_link(4)
        node.datapath.clear_targets(CONNECTION, UP)
        node.datapath.clear_neighbour(CONNECTION, UP, "10.0.0.1")

    assert (len(once.links), len(once.targets), len(once.neighbours)) == (2, 1, 1)
    assert node.datapath.observe() == DataPlane()


def test_a_table_of_another_length_is_refused(node: Node) -> None:
    with pytest.raises(ValueError, match=r"cross-connection 7, downstream: the table has 4 bytes instead of 16256"):
        node.datapath.set_targets(CONNECTION, DOWN, b"\1\0\2\0")


def test_a_restarted_agent_finds_links_targets_and_sessions(pin_root: Path) -> None:
    first = Node(pin_root)
    first.serve(UP, (1, 2))
    first.serve(DOWN, (11, 12, 13))
    chosen = [first.receiver(1, tcp(UP, number)) for number in range(20)]
    before = first.datapath.observe()
    first.datapath.close()

    second = Node(pin_root)
    second.serve(DOWN, (14,))

    assert second.datapath.observe().links.items() >= before.links.items()
    assert [second.receiver(1, tcp(UP, number)) for number in range(20)] == chosen
    second.close()


def test_another_capacity_replaces_the_sessions_and_nothing_else(pin_root: Path) -> None:
    first = Node(pin_root, capacity=1024)
    first.serve(UP, (1,))
    first.serve(DOWN, (11,))
    first.send(1, tcp(UP))
    before = first.datapath.observe()
    first.datapath.close()

    second = Node(pin_root, capacity=2048)

    assert second.datapath.observe() == before
    assert not list(second.datapath.sessions())
    second.close()


def test_wherever_the_compiler_lies_in_memory_the_program_is_loaded(pin_root: Path) -> None:
    """A thread's memory is mapped far above the first 4 GB. A crash would end the tests, so it happens elsewhere."""
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from controller.node.kernel.datapath import Datapath\n"
        "from tests.hash_key import HASH_KEY\n"
        "with ThreadPoolExecutor(1) as thread:\n"
        f"    datapath = thread.submit(Datapath.open, Path({str(pin_root)!r}), hash_key=HASH_KEY).result()\n"
        "    datapath.unpin()\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_unpinning_leaves_nothing_behind_and_may_be_repeated(pin_root: Path) -> None:
    node = Node(pin_root)

    node.datapath.unpin()
    node.close()

    assert not pin_root.exists()


def test_a_pin_root_outside_of_a_bpf_file_system_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match="is not on a BPF file system; mount one"):
        Datapath.open(tmp_path, hash_key=HASH_KEY)


def test_a_source_that_does_not_compile_is_an_error_of_the_data_path(bpffs: Path) -> None:
    with pytest.raises(DatapathError, match="does not compile"):
        Datapath.open(bpffs / "v1", cflags=["-DLINK_SLOT(skb)=nonsense"], hash_key=HASH_KEY)


def test_activity_counts_sessions_at_both_ends(node: Node) -> None:
    node.serve(UP, (1,))
    node.serve(DOWN, (11,))
    for number in range(5):
        node.send(1, tcp(UP, number))

    assert node.datapath.activity([1, 11, 30]) == {1: 5, 11: 5, 30: 0}


def test_closed_and_silent_sessions_stop_counting(node: Node) -> None:
    node.serve(UP, (1,))
    node.serve(DOWN, (11,))
    node.send(1, tcp(UP, 0))
    node.send(11, tcp(DOWN, 0))
    node.send(1, tcp(UP, 1, flags="R"))
    node.send(1, udp(UP, 2))
    node.send(1, ping(UP, 3))
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    counts = [node.datapath.activity([1], now + after * SECOND)[1] for after in (0, 3, 10, 400)]

    assert counts == [4, 3, 1, 0]


def test_two_serving_replicas_on_one_port_are_told_of(node: Node) -> None:
    node.serve(UP, (1, 2))
    node.serve(DOWN, (11,))
    for slot in (1, 2, 2, 1):
        assert node.receiver(slot, udp(UP)) == 11

    contests = node.datapath.counters.contests()

    assert contests == {Contest(CONNECTION, UP, 1, 2): 1, Contest(CONNECTION, UP, 2, 1): 1}
    assert node.datapath.counters.remarks() == {(CONNECTION, "contested"): 2}


@pytest.mark.parametrize("state", [LinkState.DRAINING, LinkState.GONE, LinkState.WIRED])
def test_a_session_that_moves_from_a_replica_that_no_longer_serves_is_not_contested(
    node: Node, state: LinkState
) -> None:
    node.serve(UP, (1, 2))
    node.serve(DOWN, (11,))
    node.send(1, udp(UP))
    node.link(1, UP, state)

    node.send(2, udp(UP))

    assert not node.datapath.counters.contests()


def test_a_port_that_is_used_again_after_its_connection_is_not_contested(node: Node) -> None:
    node.serve(UP, (1, 2))
    node.serve(DOWN, (11,))
    node.send(1, tcp(UP, flags="R"))

    node.send(2, tcp(UP, flags="S"))

    assert not node.datapath.counters.contests()


def test_neighbours_asked_for_by_several_replicas_are_not_contested(node: Node) -> None:
    node.serve(UP, (1, 2))
    node.serve(DOWN, (11,))
    for slot in (1, 2):
        node.send(slot, arp(UP))

    assert not node.datapath.counters.contests()


def test_live_sessions_that_give_way_to_others_are_counted_by_cross_connection(pin_root: Path) -> None:
    node = Node(pin_root, capacity=2048)
    for connection, (up, down) in {CONNECTION: (1, 11), CONNECTION + 1: (2, 12)}.items():
        node.serve(UP, (up,), connection)
        node.serve(DOWN, (down,), connection)
    runs = Runs(node.datapath.program_fd)
    for number in range(5000):
        runs.deliver(2, numbered(_UDP[UP], UP, number))  # never answered
        for slot, side in ((1, UP), (11, DOWN), (1, UP)):
            runs.deliver(slot, numbered(_UDP[side], side, number))

    left = sum(session.connection == CONNECTION for session in node.datapath.sessions())
    assert node.datapath.counters.evicted() == {CONNECTION: 5000 - left}
    assert left <= 2048
    node.datapath.forget(CONNECTION)
    node.datapath.sweep()
    assert node.datapath.counters.evicted() == {}
    node.datapath.unpin()
    node.close()


def test_a_link_that_leaves_is_noticed_by_every_session_though_none_is_touched(node: Node) -> None:
    node.serve(UP, (1, 2))
    node.serve(DOWN, (11, 12))
    chosen = {number: node.receiver(1, tcp(UP, number)) for number in range(16)}
    assert {number: node.receiver(1, tcp(UP, number)) for number in range(16)} == chosen

    node.link(11, DOWN, LinkState.GONE)
    after = {number: node.receiver(1, tcp(UP, number)) for number in range(16)}
    node.datapath.clear_link(1)
    answered = {number: node.receiver(slot, tcp(DOWN, number)) for number, slot in after.items()}

    assert set(after.values()) == {12}
    assert set(answered.values()) == {2}


def test_an_agent_that_ended_between_its_steps_leaves_no_session_with_a_link_that_is_gone(pin_root: Path) -> None:
    first = Node(pin_root)
    first.serve(UP, (1,))
    first.serve(DOWN, (11, 12))
    chosen = {number: first.receiver(1, tcp(UP, number)) for number in range(16)}
    entry = first.datapath._links.get((11,))
    first.datapath._links.put((11,), (*entry[:3], LinkState.GONE, *entry[4:]))  # and no more
    first.datapath.close()

    second = Node(pin_root)
    second.datapath.take_over()
    after = {number: second.receiver(1, tcp(UP, number)) for number in range(16)}

    assert 11 in chosen.values()
    assert set(after.values()) == {12}
    second.close()


@pytest.mark.parametrize("kind", ["TCP", "IPv6 TCP"])
def test_sessions_of_a_version_with_other_tables_stay_where_they_are(pin_root: Path, kind: str) -> None:
    question, _ = CONVERSATIONS[kind]
    former = Node(pin_root, capacity=4096)
    former.serve(UP, (1,))
    former.serve(DOWN, (11, 12))
    early = {number: former.receiver(1, question(UP, number)) for number in range(20)}
    latter = Node(pin_root, capacity=2048)  # over the same pins

    with latter.datapath.succeeding({former.program}):
        late = {number: former.receiver(1, question(UP, number)) for number in range(20, 40)}
    latter.serve(DOWN, (13,))
    after = {number: latter.receiver(1, question(UP, number)) for number in range(40)}

    assert {11, 12} <= {*early.values()}
    assert after == early | late
    assert latter.receiver(1, question(UP, 40)) == 13
    assert latter.datapath.counters.evicted() == {}
    former.datapath.close()
    latter.close()


def test_a_port_that_is_used_again_while_sessions_are_taken_over_keeps_its_new_replica(pin_root: Path) -> None:
    former = Node(pin_root, capacity=4096)
    former.serve(UP, (1,))
    former.serve(DOWN, (11,))
    numbers = range(20)
    for number in numbers:
        former.send(1, tcp(UP, number))
        former.send(1, tcp(UP, number, "R"))
    former.age_of_sessions(10)
    former.serve(DOWN, (12,))
    latter = Node(pin_root, capacity=2048)

    with latter.datapath.succeeding({former.program}):
        opened = {number: former.receiver(1, tcp(UP, number, "S")) for number in numbers}
    after = {number: latter.receiver(1, tcp(UP, number)) for number in numbers}

    assert after == opened == dict.fromkeys(numbers, 12)
    former.datapath.close()
    latter.close()


def test_a_connection_that_closes_while_sessions_are_taken_over_is_closed_for_both(pin_root: Path) -> None:
    """Each of its two ends is closed before or after its link has the latter program; then its ports are used again."""
    former = Node(pin_root, capacity=4096)
    former.serve(UP, (1,))
    former.serve(DOWN, (11,))
    numbers = range(40)
    for number in numbers:
        former.send(1, tcp(UP, number, "S"))
        former.send(11, tcp(DOWN, number, "SA"))
        former.send(1, tcp(UP, number))
    latter = Node(pin_root, capacity=2048)

    with latter.datapath.succeeding({former.program}):
        for number in numbers:
            (former, latter)[number & 1].send(1, tcp(UP, number, "FA"))
            (former, latter)[number >> 1 & 1].send(11, tcp(DOWN, number, "FA"))
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 2_000_000_000
    left = latter.datapath.activity([11], after)
    latter.serve(DOWN, (12,))
    again = {number: latter.receiver(1, tcp(UP, number, "S")) for number in numbers}

    assert left == {11: 0}
    assert again == dict.fromkeys(numbers, 12)
    former.datapath.close()
    latter.close()


def test_a_port_that_is_used_again_at_once_while_sessions_are_taken_over_keeps_its_new_replica(pin_root: Path) -> None:
    """The former program knows the connection that is open, the latter one that which has just been closed."""
    former = Node(pin_root, capacity=4096)
    former.serve(UP, (1,))
    former.serve(DOWN, (11,))
    numbers = range(20)
    for number in numbers:
        former.send(1, tcp(UP, number))
        former.send(1, tcp(UP, number, "FA"))
        former.send(11, tcp(DOWN, number, "FA"))
    former.serve(DOWN, (12,))
    latter = Node(pin_root, capacity=2048)

    with latter.datapath.succeeding({former.program}):
        time.sleep(0.2)  # more than a session's time is late by
        opened = {number: former.receiver(1, tcp(UP, number, "S")) for number in numbers}
    after = {number: latter.receiver(1, tcp(UP, number)) for number in numbers}

    assert after == opened == dict.fromkeys(numbers, 12)
    former.datapath.close()
    latter.close()


def test_a_port_that_the_latter_program_has_seen_used_again_is_not_closed_by_the_former_one(pin_root: Path) -> None:
    former = Node(pin_root, capacity=4096)
    former.serve(UP, (1,))
    former.serve(DOWN, (11,))
    former.send(1, tcp(UP, flags="FA"))
    former.send(11, tcp(DOWN, flags="FA"))
    former.age_of_sessions(10)
    latter = Node(pin_root, capacity=2048)

    with latter.datapath.succeeding({former.program}):
        latter.send(1, tcp(UP, flags="S"))
        latter.send(11, tcp(DOWN, flags="SA"))
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 2_000_000_000

    assert latter.datapath.activity([11], after) == {11: 1}
    former.datapath.close()
    latter.close()


def test_succeeding_the_same_tables_or_a_program_that_has_ended_changes_nothing(node: Node) -> None:
    node.serve(UP, (1,))
    node.serve(DOWN, (11,))
    node.send(1, udp(UP))
    (before,) = node.datapath.sessions()

    with node.datapath.succeeding({node.program, 0x7FFFFFFF}):
        pass

    assert list(node.datapath.sessions()) == [before]


def test_time_goes_on_for_a_session_that_is_used(node: Node) -> None:
    node.serve(UP, (1,))
    node.serve(DOWN, (11,))
    node.send(1, udp(UP))
    (opened,) = node.datapath.sessions()

    time.sleep(0.2)
    node.send(1, udp(UP))
    (used,) = node.datapath.sessions()

    assert 0.1 * SECOND < used.last_seen_ns - opened.last_seen_ns < 10 * SECOND


def test_forgetting_a_cross_connection_leaves_the_others(node: Node) -> None:
    for connection, first in ((CONNECTION, 1), (CONNECTION + 1, 21)):
        node.serve(UP, (first,), connection=connection)
        node.send(first, udp(UP))
        node.serve(DOWN, (first + 10,), connection=connection)
        node.send(first, udp(UP))

    node.datapath.forget(CONNECTION)

    node.datapath.sweep()

    assert {session.connection for session in node.datapath.sessions()} == {CONNECTION + 1}
    assert node.datapath.counters.drops() == {(CONNECTION + 1, "no_target"): 1}


def test_a_number_that_a_link_gets_again_before_the_sweep_is_not_freed(node: Node) -> None:
    node.datapath.set_number(CONNECTION, Numbered("uid", "telco", "edge.a.lan.b.lan"))
    node.serve(UP, (1,))
    node.datapath.clear_link(1)
    node.datapath.forget(CONNECTION)

    node.serve(UP, (2,))
    node.datapath.sweep()

    assert CONNECTION in node.datapath.observe().numbers


def test_a_session_table_that_is_full_goes_on_with_the_latest(pin_root: Path) -> None:
    node = Node(pin_root, capacity=1024)
    node.serve(UP, (1,))
    node.serve(DOWN, (11,))

    node.datapath.set_patience(CONNECTION, Patience(udp=3600))
    runs = Runs(node.datapath.program_fd)
    for number in range(2000):
        runs.deliver(1, numbered(_UDP[UP], UP, number))
    remembered = len(list(node.datapath.sessions()))

    assert 256 < remembered <= 1024
    assert node.datapath.activity([1])[1] == remembered
    node.close()


def test_numbers_are_the_same_in_c_and_python() -> None:
    source = "".join((SOURCE / name).read_text() for name in ("cross_connect.c", "session.h"))
    numbers = dict(re.findall(r"^\t(\w+) = (\d+),", source, re.MULTILINE))

    assert {state.name: str(state.value) for state in LinkState}.items() <= numbers.items()
    assert {side.name: str(side.value) for side in Side}.items() <= numbers.items()
    assert list(verdicts()) == list(range(17))
    assert verdicts().items() >= {0: "forwarded", 3: "unwired", 6: "contested", 8: "parted_fragment"}.items()
    assert {name: int(numbers[name]) for name in ("ANSWERED", "PROVEN", "WAS_PROVEN")} == {
        "ANSWERED": ANSWERED,
        "PROVEN": PROVEN,
        "WAS_PROVEN": WAS_PROVEN,
    }
    others = {10: "peer_down", 11: "stranger", 12: "wire_version", 14: "outsider", 16: "reset"}
    assert verdicts(dropped=True) == {3: "unwired", 4: "no_target"} | others
