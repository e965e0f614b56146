"""The traffic tool's account: every datagram sent has exactly one outcome, and each outcome has a count."""

from __future__ import annotations

import errno
from collections import Counter
from itertools import islice

import pytest
from account import Account, Flow
from hypothesis import given
from hypothesis import strategies as st
from sender import LIFE, PORT_REST, PORTS, break_reason, most_at_a_time, source_ports
from traffic import arguments, buffer_errors


def sent(account: Account, *times: float) -> Flow:
    flow = Flow()
    for time in times:
        account.sent(flow, time)
    return flow


def test_an_echoed_datagram_is_received() -> None:
    account = Account(started=0)
    flow = sent(account, 0.1, 0.2)

    account.echoed(flow, 0, 1)
    account.echoed(flow, 1, 2)
    account.settle(flow)

    assert flow.complete
    assert account.packets == Counter(sent=2, received=2)


def test_a_datagram_is_lost_only_once_its_flow_is_settled() -> None:
    account = Account(started=0)
    flow = sent(account, 0.1)

    before = account.report(1.0)["packets"]["lost"]
    account.settle(flow)

    assert before == 0
    assert account.report(1.0)["packets"]["lost"] == 1


def test_a_loss_is_booked_on_the_second_of_its_sending() -> None:
    account = Account(started=100)
    flow = sent(account, 100.5, 103.0, 103.9)

    account.echoed(flow, 0, 1)
    account.settle(flow)

    assert account.report(110)["lostPerSecond"] == {"3": 2}


def test_a_second_echo_is_a_duplicate_and_not_received_again() -> None:
    account = Account(started=0)
    flow = sent(account, 0.1)

    account.echoed(flow, 0, 1)
    account.echoed(flow, 0, 2)

    assert account.packets == Counter(sent=1, received=1, duplicated=1)


def test_an_echo_behind_a_later_one_is_reordered() -> None:
    account = Account(started=0)
    flow = sent(account, 0.1, 0.2, 0.3)

    for sequence in (2, 0, 1):
        account.echoed(flow, sequence, 1)

    assert account.packets["reordered"] == 2


@pytest.mark.parametrize(("arrived", "before_server"), [(1, 2), (2, 1), (3, 0), (9, 0)])
def test_the_servers_count_tells_on_which_way_a_datagram_was_lost(arrived: int, before_server: int) -> None:
    account = Account(started=0)
    flow = sent(account, 0.1, 0.2, 0.3)

    account.echoed(flow, 0, arrived)
    account.settle(flow)

    assert account.packets["lost"] == 2
    assert account.packets["lostBeforeServer"] == before_server


@given(count=st.integers(0, 30), echoes=st.lists(st.integers(0, 29)))
def test_every_datagram_is_either_received_or_lost(count: int, echoes: list[int]) -> None:
    account = Account(started=0)
    flow = sent(account, *range(count))
    echoes = [sequence for sequence in echoes if sequence < count]

    for sequence in echoes:
        account.echoed(flow, sequence, 1)
    account.settle(flow)

    packets = account.packets
    assert packets["received"] == len(set(echoes))
    assert packets["received"] + packets["lost"] == packets["sent"] == count
    assert packets["received"] + packets["duplicated"] == len(echoes)
    assert sum(account.lost_per_second.values()) == packets["lost"]


def test_a_broken_connection_says_when_and_why() -> None:
    account = Account(started=10)

    account.opened()
    account.broken("reset", 12.7)
    account.opened()
    account.completed()

    report = account.report(20)
    assert report["connections"] == {"opened": 2, "completed": 1, "broken": 1, "retransmittedSegments": 0}
    assert report["breaks"] == [{"second": 2, "reason": "reset"}]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(), "refused"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (TimeoutError(), "time-out"),
        (EOFError(), "short"),
        (ValueError(), "mismatch"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "EHOSTUNREACH"),
    ],
)
def test_a_break_has_a_reason(error: Exception, reason: str) -> None:
    assert break_reason(error) == reason


def test_no_source_port_comes_back_before_its_rest() -> None:
    per_second = most_at_a_time(PORTS) / LIFE

    ports = list(islice(source_ports(per_second, 1e9, PORTS), int(per_second * PORT_REST)))

    assert len(set(ports)) == len(ports)
    assert min(ports) >= min(PORTS)
    assert max(ports) <= max(PORTS)


def test_a_client_started_again_takes_other_source_ports() -> None:
    per_second, seconds, pause = 67.0, 100, 1

    first = set(islice(source_ports(per_second, 1e9, PORTS), int(per_second * seconds)))
    second = set(islice(source_ports(per_second, 1e9 + seconds + pause, PORTS), int(per_second * seconds)))

    assert not first & second


def test_more_flows_than_source_ports_allow_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["client", "198.51.100.2", "--flows", str(most_at_a_time(PORTS) + 1)])

    assert f"at most {most_at_a_time(PORTS)}" in capsys.readouterr().err


def test_buffer_errors_are_read_from_the_kernels_table() -> None:
    snmp = "Tcp: InErrs\nTcp: 7\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 100 2 3 90 42\n"

    assert buffer_errors(snmp) == 42
