"""Replicas behind one address break each other's connections, unless each has its own source ports."""

from __future__ import annotations

import copy
import re
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from controller.node.kernel.datapath import Datapath
from controller.node.report.clashes import clashes
from sfc.reading import chain_of
from sfc.source_ports import nth
from tests.hash_key import HASH_KEY
from tests.netns.shared_address import CHAIN, CLIENTS, REPLICAS, SERVER, Lab, shared_address

SLICES = 16
CONNECTIONS, AT_A_TIME = 800, 400
QUESTIONS = 8
"""Of each replica."""


@pytest.fixture(scope="module")
def datapath(bpffs: Path) -> Datapath:
    return Datapath.open(bpffs / "source-ports", hash_key=HASH_KEY)


def test_no_connection_breaks_when_each_replica_has_source_ports_of_its_own(datapath: Datapath) -> None:
    with shared_address("with", datapath, SLICES) as lab:
        account = lab.connect(CONNECTIONS, AT_A_TIME)
        used = [lab.node.sessions(replica) for replica in lab.translators]
        contests = datapath.counters.contests()

    assert (account["broken"], account["why"]) == (0, {})
    assert contests == {}
    assert account["connections"] == CONNECTIONS
    assert all(used)


def test_connections_break_when_replicas_use_the_same_source_ports_and_the_replicas_are_named(
    datapath: Datapath,
) -> None:
    with shared_address("without", datapath, None) as lab:
        account = lab.connect(CONNECTIONS, AT_A_TIME)
        told = list(clashes(lab.node.reconciler.state, datapath.counters.contests()))

    assert account["broken"] > CONNECTIONS / 20
    names = {replica.name for replica in lab.translators}
    assert {clash.replica.name for clash in told} == names
    assert all(clash.other.name in names - {clash.replica.name} for clash in told)
    assert {clash.interface for clash in told} == {"outside"}
    assert "sourcePorts: {slices: N} on interface outside of stage nat" in told[0].message


def hold_slices(lab: Lab) -> None:
    """The chain and the pods say who has which ports, as they do in a cluster."""
    chain = copy.deepcopy(CHAIN)
    chain["spec"]["stages"][1]["interfaces"][1]["sourcePorts"] = {"slices": SLICES}
    lab.node.chain = chain_of(chain)
    for index, replica in enumerate(lab.translators):
        lab.node.become(replica, ports=nth(index, SLICES))
    lab.node.reconcile()


def answers(lab: Lab, first: int) -> int:
    """Asks the server from ports of each replica, `first` being the first of them in its slice. The server answers each
    time from a port of its own, as TFTP does; how many answers reach the socket that asked."""
    (server,) = (replica for replica in lab.node.replicas if replica.stage == "server")
    with ExitStack() as stack:
        listener = stack.enter_context(server.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listener.bind((SERVER, 69))
        listener.settimeout(10)
        arrived = 0
        for index, replica in enumerate(lab.translators):
            for number in range(QUESTIONS):
                asker = stack.enter_context(replica.socket(socket.AF_INET, socket.SOCK_DGRAM))
                asker.bind(("198.51.100.1", nth(index, SLICES).first + first + number))
                asker.sendto(b"question", (SERVER, 69))
                other = stack.enter_context(server.socket(socket.AF_INET, socket.SOCK_DGRAM))
                other.sendto(b"answer", listener.recvfrom(100)[1])
                asker.settimeout(0.2)
                with suppress(TimeoutError):
                    arrived += asker.recv(100) == b"answer"
    return arrived


def test_an_answer_from_another_port_reaches_the_replica_that_holds_the_port_it_is_for(datapath: Datapath) -> None:
    with shared_address("answers", datapath, SLICES) as lab:
        by_hash = answers(lab, 100)
        hold_slices(lab)
        by_slice = answers(lab, 200)

    print(f"\nof {REPLICAS * QUESTIONS} answers {by_hash} arrive by the hash, {by_slice} by the slice")
    assert by_hash < REPLICAS * QUESTIONS == by_slice


def test_the_example_nat_translates_to_its_slice_also_the_identifiers_of_echo_requests(datapath: Datapath) -> None:
    with shared_address("slice", datapath, SLICES) as lab:
        lab.connect(80, 40)
        for address in CLIENTS:
            lab.client.run("ping", "-c", "1", "-W", "2", "-I", address, SERVER)
        entries = [replica.run("conntrack", "-L") for replica in lab.translators]

    for index, text in enumerate(entries):
        ports = nth(index, SLICES)
        translated = [int(port) for port in re.findall(r"src=198\.51\.100\.2 .*?dport=(\d+)", text)]
        identifiers = [int(number) for number in re.findall(r"src=198\.51\.100\.2 .*?id=(\d+)", text)]
        assert translated
        assert all(ports.first <= port <= ports.last for port in translated + identifiers)
    assert len(re.findall(r"^icmp", "".join(entries), re.MULTILINE)) == len(CLIENTS)
