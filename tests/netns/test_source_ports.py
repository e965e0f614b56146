"""Replicas behind one address break each other's connections, unless each has its own source ports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.node.kernel.datapath import Datapath
from controller.node.report.clashes import clashes
from sfc.source_ports import nth
from tests.hash_key import HASH_KEY
from tests.netns.shared_address import CLIENTS, SERVER, shared_address

SLICES = 16
CONNECTIONS, AT_A_TIME = 800, 400


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
