"""The example network functions in real namespaces, joined by plain veths: client - firewall - nat - server.

There are no cross-connections here. The tests show the functions alone, and that the traffic tool notices every real
loss.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NF = Path(__file__).parents[2] / "deploy/examples/nf"
NAMESPACES = ("client", "firewall", "nat", "server")
WIRES = (
    (("client", "lan"), ("firewall", "left")),
    (("firewall", "right"), ("nat", "inside")),
    (("nat", "outside"), ("server", "wan")),
)
SERVER = "198.51.100.2"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


def inside(stage: str, *command: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", f"sfcn-{stage}", *command)


def function(stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen(inside(stage, str(NF / stage)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ready(stage: str) -> bool:
    return subprocess.run(inside(stage, str(NF / stage), "ready"), check=False, timeout=10).returncode == 0


@dataclass
class Chain:
    functions: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, *stages: str) -> None:
        for stage in stages:
            self.functions[stage] = function(stage)

    def terminate(self, stage: str) -> tuple[str, float]:
        """Terminates the function; (its output, seconds until it ended)."""
        process = self.functions.pop(stage)
        began = time.monotonic()
        process.terminate()
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return printed, time.monotonic() - began

    def stop(self) -> None:
        for process in self.functions.values():
            process.terminate()
        for process in self.functions.values():
            process.communicate(timeout=60)


def remove_namespaces() -> None:
    for stage in NAMESPACES:
        subprocess.run(["ip", "netns", "delete", f"sfcn-{stage}"], check=False, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[Chain]:
    """Four empty namespaces."""
    remove_namespaces()
    chain = Chain()
    with ExitStack() as cleanup:
        cleanup.callback(remove_namespaces)
        cleanup.callback(chain.stop)
        for stage in NAMESPACES:
            run("ip", "netns", "add", f"sfcn-{stage}")
        yield chain


def wire() -> None:
    """Makes the interfaces and addresses of the chain's manifest."""
    for (up, up_interface), (down, down_interface) in WIRES:
        run("ip", "link", "add", up_interface, "netns", f"sfcn-{up}", "type", "veth",
            "peer", "name", down_interface, "netns", f"sfcn-{down}")  # fmt: skip
        run("ip", "-n", f"sfcn-{up}", "link", "set", up_interface, "up")
        run("ip", "-n", f"sfcn-{down}", "link", "set", down_interface, "up")
    for stage, interface, address in (
        ("client", "lan", "10.1.0.2/24"),
        ("nat", "inside", "10.1.0.1/24"),
        ("nat", "outside", "198.51.100.1/24"),
        ("server", "wan", "198.51.100.2/24"),
    ):
        run("ip", "-n", f"sfcn-{stage}", "address", "add", address, "dev", interface)
    run("ip", "-n", "sfcn-client", "route", "add", "198.51.100.0/24", "via", "10.1.0.1")
    run(*inside("nat", "sysctl", "-qw", "net.ipv4.ip_forward=1"))  # as the pod's init container


@pytest.fixture
def chain(namespaces: Chain) -> Chain:
    """Runs the whole chain; yields when it is ready."""
    wire()
    namespaces.start(*NAMESPACES)
    for stage in NAMESPACES:
        assert ready(stage), stage
    return namespaces


def send(*options: str) -> dict[str, Any]:
    """Runs the client for a short time; its result."""
    printed = run(*inside("client", str(NF / "traffic.py"), "client", SERVER, *options))
    word, _, result = printed.splitlines()[-1].partition(" ")
    assert word == "RESULT"
    report: dict[str, Any] = json.loads(result)
    return report


def rules(stage: str, text: str) -> None:
    subprocess.run(inside(stage, "nft", "-f", "-"), input=text, text=True, check=True, timeout=10)


def counted(stage: str, *name: str) -> int:
    """The number of packets in a named nftables counter."""
    found = re.search(r"packets (\d+)", run(*inside(stage, "nft", "list", "counter", *name)))
    assert found
    return int(found[1])


def test_traffic_crosses_the_chain_without_loss(chain: Chain) -> None:
    result = send("--duration", "2")

    packets, connections = result["packets"], result["connections"]
    assert packets["sent"] > 1000
    assert packets["received"] == packets["sent"]
    assert packets["lost"] == packets["duplicated"] == packets["strayed"] == 0
    assert connections["opened"] > 8
    assert connections["completed"] == connections["opened"]


def test_the_server_sees_only_the_address_of_the_nat(chain: Chain) -> None:
    rules(
        "server",
        """table ip seen {
        counter translated { }
        counter other { }
        chain input {
            type filter hook input priority 0
            iifname "wan" ip saddr 198.51.100.1 counter name translated accept
            iifname "wan" counter name other
        }
    }""",
    )

    send("--duration", "1")

    assert counted("server", "ip", "seen", "translated") > 0
    assert counted("server", "ip", "seen", "other") == 0


def test_the_nat_forwards_no_connection_that_begins_outside(chain: Chain) -> None:
    run("ip", "-n", "sfcn-server", "route", "add", "10.1.0.0/24", "via", "198.51.100.1")

    asked = subprocess.run(
        inside("server", "ping", "-c", "1", "-W", "1", "10.1.0.2"), capture_output=True, check=False, timeout=10
    )

    assert asked.returncode == 1


def test_the_firewall_stops_telnet_and_nothing_else(chain: Chain) -> None:
    def refused(port: int) -> bool:
        """Whether the server refuses a connection to a closed port, which it does at once, by a reset."""
        code = f"import socket; socket.create_connection(('{SERVER}', {port}), 1)"
        done = subprocess.run(
            inside("client", "/usr/bin/python3", "-c", code), capture_output=True, text=True, check=False, timeout=10
        )
        return "ConnectionRefusedError" in done.stderr

    assert refused(24)
    assert not refused(23)
    assert counted("firewall", "bridge", "firewall", "telnet") >= 1


@pytest.mark.parametrize(("hook", "before_server"), [("dport", True), ("sport", False)], ids=["there", "back"])
def test_every_datagram_lost_on_the_way_is_counted(chain: Chain, hook: str, before_server: bool) -> None:
    rules(
        "firewall",
        f"""table bridge loss {{
        counter lost {{ }}
        chain forward {{
            type filter hook forward priority 10
            udp {hook} 7000 numgen inc mod 97 == 5 counter name lost drop
        }}
    }}""",
    )

    result = send("--duration", "2")

    lost = counted("firewall", "bridge", "loss", "lost")
    packets = result["packets"]
    assert lost > 0
    assert packets["lost"] == lost
    assert packets["received"] == packets["sent"] - lost
    assert (packets["lostBeforeServer"] == lost) == before_server
    assert sum(result["lostPerSecond"].values()) == lost


def test_a_connection_that_is_reset_counts_as_broken(chain: Chain) -> None:
    rules(
        "server",
        """table ip cut {
        chain input {
            type filter hook input priority 0
            tcp dport 7000 ct original packets > 20 reject with tcp reset
        }
    }""",
    )

    result = send("--duration", "2")

    connections = result["connections"]
    assert connections["completed"] == 0
    assert connections["broken"] == connections["opened"] > 8
    assert {b["reason"] for b in result["breaks"]} == {"reset"}
    assert result["packets"]["lost"] == 0


def test_the_client_stops_when_its_standard_input_ends(chain: Chain) -> None:
    began = time.monotonic()

    subprocess.run(
        inside("client", str(NF / "traffic.py"), "client", SERVER, "--until-enter", "--duration", "60"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=90,
    )  # fmt: skip

    assert time.monotonic() - began < 50  # of 60


@pytest.mark.parametrize("stage", NAMESPACES)
def test_a_function_says_when_sigterm_came_and_leaves_at_once(chain: Chain, stage: str) -> None:
    printed, seconds = chain.terminate(stage)

    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z SIGTERM received$", printed, re.M)
    assert seconds < 10  # not when it is killed, 30 s later


@pytest.mark.parametrize("stage", NAMESPACES)
def test_a_function_without_interfaces_waits_and_is_not_ready(namespaces: Chain, stage: str) -> None:
    namespaces.start(stage)
    was_ready = ready(stage)

    printed, seconds = namespaces.terminate(stage)

    assert not was_ready
    assert "waiting for interfaces" in printed
    assert "SIGTERM received" in printed
    assert seconds < 10  # not when it is killed, 30 s later


@pytest.mark.parametrize("stage", ["firewall", "nat"])
def test_a_function_starts_again_in_the_network_it_left(chain: Chain, stage: str) -> None:
    chain.terminate(stage)
    chain.start(stage)

    assert ready(stage)
    assert send("--duration", "0.5")["packets"]["lost"] == 0


def test_a_firewall_without_its_rules_is_not_ready(chain: Chain) -> None:
    run(*inside("firewall", "nft", "delete", "table", "bridge", "firewall"))

    assert not ready("firewall")


def test_the_firewall_says_nothing_of_its_own(chain: Chain) -> None:
    addresses = run("ip", "-n", "sfcn-firewall", "-oneline", "address", "show")

    assert "inet" not in addresses
