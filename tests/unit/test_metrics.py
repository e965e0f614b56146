"""The node agent's metrics: names, labels, and what they leave out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prometheus_client import CollectorRegistry, generate_latest

from controller.node.plane.hearing import Hearing, Silent
from controller.node.plane.model import Traffic
from controller.node.report.metrics import MOST_SILENT_SHOWN, DatapathCollector
from tests.unit.objects import link
from tests.unit.test_conditions import state
from tests.unit.test_desired import ALL, CLIENT_FIREWALL, TWO_FIREWALLS


class Counted:
    def traffic(self, slots: Collection[int]) -> dict[int, Traffic]:
        return {slot: Traffic(10 * slot, 100 * slot, 1, 2, sessions_opened=3, sessions_chosen=4) for slot in slots}

    def drops(self) -> dict[tuple[int, str], int]:
        return {(CLIENT_FIREWALL, "no_target"): 5, (0, "unwired"): 6, (4711, "no_target"): 7}

    def remarks(self) -> dict[tuple[int, str], int]:
        return {(CLIENT_FIREWALL, "orphan"): 8}

    def remembered(self) -> int:
        return 1000

    def tunnel(self) -> Traffic:
        return Traffic(70, 7000, 60, 6000, sessions_opened=0, sessions_chosen=0)

    def evicted(self) -> Mapping[int, int]:
        return {CLIENT_FIREWALL: 17, 4711: 3}


NOBODY, NAMES = Hearing(), {"10.0.0.7": "node-7"}


def scraped(hearing: Hearing = NOBODY) -> str:
    registry = CollectorRegistry()
    shown = state(TWO_FIREWALLS, (*ALL, link(9, "nobody-1", "lan")))
    registry.register(DatapathCollector(Counted(), lambda: shown, lambda: hearing, lambda: NAMES, lambda: 1000.0))
    return generate_latest(registry).decode()


def test_a_link_is_named_by_its_replica() -> None:
    labels = 'chain="edge",interface="left",namespace="telco",pod="firewall-1",stage="firewall"'

    text = scraped()

    assert f"sfc_link_sessions_total{{{labels}}} 7.0" in text
    assert 'direction="received",interface="left",namespace="telco",pod="firewall-1",stage="firewall"} 20.0' in text


def test_sessions_between_nodes_are_those_of_the_slot_that_no_link_has() -> None:
    text = scraped()

    assert 'sfc_far_sessions_total{direction="sent"} 4.0' in text
    assert 'sfc_far_sessions_total{direction="received"} 3.0' in text


def test_drops_are_named_by_their_cross_connection_and_those_of_deleted_chains_are_gone() -> None:
    text = scraped()

    assert 'cross_connection="edge.client.lan.firewall.left",namespace="telco",verdict="no_target"} 5.0' in text
    assert 'cross_connection="",namespace="",verdict="unwired"} 6.0' in text
    assert 'sfc_remarkable_packets_total{cross_connection="edge.client.lan.firewall.left",namespace="telco"' in text
    assert "7.0" not in [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("sfc_dropped")]


def test_how_full_the_session_table_is_and_what_it_cost_are_shown() -> None:
    text = scraped()

    assert "sfc_sessions 1000.0" in text
    evicted = [line for line in text.splitlines() if line.startswith("sfc_evicted_sessions_total{")]
    labels = 'cross_connection="edge.client.lan.firewall.left",namespace="telco"'
    assert f"sfc_evicted_sessions_total{{{labels}}} 17.0" in evicted
    assert sum(line.endswith("} 0.0") for line in evicted) == len(evicted) - 1  # number 4711 stands for nothing


def test_a_link_of_no_known_pod_is_not_shown() -> None:
    assert "nobody" not in scraped()


def test_the_tunnel_and_the_nodes_behind_it_are_shown() -> None:
    text = scraped(
        Hearing(
            [f"10.0.0.{n}" for n in range(5, 10)],
            {"10.0.0.7": Silent(100.0), "10.0.0.8": Silent(200.0, 2)},
            cut_off=True,
        )
    )

    assert 'sfc_tunnel_packets_total{direction="sent"} 60.0' in text
    assert 'sfc_tunnel_bytes_total{direction="received"} 7000.0' in text
    shown = {state: f'sfc_peers{{state="{state}"}} {n}.0' in text for state, n in {"heard": 3, "silent": 1}.items()}
    assert shown == {"heard": True, "silent": True}
    assert 'sfc_peers{state="foreign"} 1.0' in text
    assert 'sfc_peer_silent_seconds{address="10.0.0.7",peer="node-7"} 900.0' in text
    assert "sfc_cut_off 1.0" in text


def test_however_many_nodes_are_silent_few_have_a_series() -> None:
    silent = {f"10.0.{n // 250}.{n % 250}": Silent(float(n)) for n in range(4000)}

    text = scraped(Hearing(silent.keys(), silent))

    assert text.count("sfc_peer_silent_seconds{") == MOST_SILENT_SHOWN
    assert 'sfc_peers{state="silent"} 4000.0' in text
