"""Thousands of membership changes under traffic. Only packets to a crashed replica may be lost.

The changes of the pods are random and repeatable (SEED): pods become ready and unready, a hook drains them and they
come back, they are deleted, drain, vanish, and are replaced. The reconciler works as on a node. The demo's own tool
sends the traffic and accounts for it: numbered datagrams, and short TCP connections, so that there are always both new
and established sessions.

`-s` prints the account.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controller.node.kernel.datapath import Datapath
from controller.node.reconcile import deletions
from tests.netns.node import settles
from tests.netns.topology import Echo, Replica
from tests.netns.world import STATELESS, World, world_of

SEED = 4
CHANGES = 5000
MOST_REPLACED = 40
"""Replicas that are replaced, the slowest kind of change. All further changes concern replicas that stay."""
FASTER = 20
"""How much faster the clock of drains runs: the 30 seconds of a stateless replica take 1.5."""
TRAFFIC = Path(__file__).parents[2] / "deploy/examples/nf/traffic.py"
PORT = 7000
FUNCTIONS = {"firewall": "bridge", "router": "router", "nat": "nat"}
REPLICAS = {"client": 2, "firewall": 4, "router": 4, "nat": 3, "server": 3}


class Churn:
    """Changes the pods at random, one after the other. Each stage always keeps a serving replica."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._restarting: set[str] = set()
        self.changes: Counter[str] = Counter()

    def start_server(self, replica: Replica) -> None:
        process = in_namespace(replica, "server", "--port", str(PORT))
        assert process.stdout
        assert "ready" in process.stdout.readline()
        self._servers[replica.name] = process

    def close(self) -> None:
        for process in self._servers.values():
            process.kill()
            process.communicate()

    def some(self) -> None:
        """Changes some replicas, one change each; the agent sees all of them in one pass."""
        replicas = self._world.node.replicas
        for replica in self._random.sample(replicas, self._random.randint(1, len(replicas))):
            self._one(replica)
        self._world.node.reconcile()

    def _one(self, replica: Replica) -> None:
        pod = self._world.node.pods[replica.name]
        drain = self._world.node.reconciler.state.drains.get(replica.name)
        if pod.terminating:
            if drain and drain.ended and self.changes["replaced"] < MOST_REPLACED:
                self._replace(replica)
        elif replica.name in self._restarting:
            self._restarting.remove(replica.name)
            self._world.node.reconciler.drains.deletions.ask(FASTER * time.monotonic())
            self._become("restarted", replica, ready=True)
        elif not pod.ready:
            self._become("ready", replica, ready=True)
        elif self._others_serve(replica):
            self._take_out(replica)

    def _take_out(self, replica: Replica) -> None:
        """Takes a replica out. A client only becomes unready, because its connections are its own: it keeps them. A
        replica with state never does, because others would get its sessions; it must be idle before it is deleted. The
        hook of one that restarts is believed, because the API server is away.
        """
        kinds = ["unready"] if replica.stage == "client" or self._stateless(replica) else []
        if self._stateless(replica):
            kinds.append("restarting")
        if replica.stage != "client" and self.changes["replaced"] < MOST_REPLACED:
            kinds.append("terminating")
        match self._random.choice(kinds) if kinds else None:
            case "unready":
                self._become("unready", replica, ready=False)
            case "terminating":
                self._become("terminating", replica, terminating=True)
            case "restarting":
                self._restarting.add(replica.name)
                self._world.node.api_is_away = True
                self._world.node.reconciler.drain(replica.drain_id, FASTER * time.monotonic(), timeout=0)
                self._world.node.api_is_away = False
                self._become("restarting", replica, ready=False)

    def _replace(self, replica: Replica) -> None:
        self._world.node.remove(replica)
        if server := self._servers.pop(replica.name, None):
            server.kill()
            server.communicate()
        added = self._world.add(replica.stage)
        if replica.stage == "server":
            self.start_server(added)
        self.changes["replaced"] += 1

    def _become(self, change: str, replica: Replica, **fields: Any) -> None:
        self._world.node.become(replica, **fields)
        self.changes[change] += 1

    def _others_serve(self, replica: Replica) -> bool:
        pods = [self._world.node.pods[each.name] for each in self._world.of(replica.stage) if each is not replica]
        return any(pod.ready and not pod.terminating and pod.name not in self._restarting for pod in pods)

    def _stateless(self, replica: Replica) -> bool:
        return self._world.functions.get(replica.stage) in STATELESS


class Tally(logging.Handler):
    """Counts the reconciler's reports."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.msg] += 1


@contextmanager
def tally() -> Iterator[Counter[str]]:
    log, handler = logging.getLogger("controller.node.reconcile"), Tally()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield handler.counts
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def in_namespace(replica: Replica, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", replica.namespace, sys.executable, TRAFFIC, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


class Printed:
    """Reads a process's output all the time: with a full pipe the process would stop, and its connections time out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.last_line = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.last_line = line

    def account(self) -> dict[str, Any]:
        """Ends the client, which first finishes its flows; returns its account."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.close()
        self._thread.join(timeout=60)
        word, _, result = self.last_line.partition(" ")
        assert word == "RESULT"
        account: dict[str, Any] = json.loads(result)
        return account


def test_nothing_is_lost_in_thousands_of_membership_changes(
    datapath: Datapath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "ASK_SECONDS", 0.0)
    with ExitStack() as cleanup:
        world = cleanup.enter_context(
            world_of("churn", FUNCTIONS, datapath, REPLICAS, clock=lambda: FASTER * time.monotonic())
        )
        churn = Churn(world, SEED)
        cleanup.callback(churn.close)
        for server in world.of("server"):
            churn.start_server(server)
        counts = cleanup.enter_context(tally())
        options = ("--port", str(PORT), "--rate", "500", "--flows", "30", "--connections", "6", "--until-enter")
        clients = [
            Printed(in_namespace(client, "client", world.address("server", "wan", family), *options))
            for client, family in zip(world.of("client"), (4, 6), strict=True)
        ]
        for client in clients:
            cleanup.callback(client.process.kill)

        began = time.monotonic()
        while sum(churn.changes.values()) < CHANGES:
            churn.some()
        seconds = time.monotonic() - began
        accounts = [client.account() for client in clients]

        print(f"\n{sum(churn.changes.values())} changes in {seconds:.0f} s: {dict(churn.changes)}")
        print(f"applied: {dict(counts)}")
        for account in accounts:
            print({key: account[key] for key in ("packets", "connections", "breaks", "bufferErrors")})
        for account in accounts:
            packets, connections = account["packets"], account["connections"]
            assert packets["lost"] == packets["duplicated"] == packets["strayed"] == 0
            assert packets["received"] == packets["sent"] > 1000
            assert connections["broken"] == 0
            assert connections["completed"] == connections["opened"] > 10
        assert not world.dropped()


class Flow:
    """Numbered datagrams of one five-tuple, and their way as the answers show it."""

    def __init__(self, client: Replica, server: tuple[str, int]) -> None:
        self._socket = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self._socket.setblocking(False)
        self._socket.connect(server)
        self._numbers = count()
        self.outstanding: set[int] = set()
        self.way: tuple[str, ...] = ()
        """(server, router) of the latest answer."""

    def close(self) -> None:
        self._socket.close()

    def send(self) -> None:
        number = next(self._numbers)
        self.outstanding.add(number)
        with suppress(ConnectionError):  # an ICMP error about an earlier datagram, which is counted as lost anyway
            self._socket.send(number.to_bytes(8, "big"))

    def receive(self) -> int:
        """Receives answers; the number of datagrams still without one."""
        while True:
            try:
                answer, ((_, _, stamp),), _, _ = self._socket.recvmsg(100, 100)
            except BlockingIOError:
                return len(self.outstanding)
            except ConnectionError:
                continue
            self.outstanding.discard(int.from_bytes(answer[16:], "big"))
            self.way = (answer[:16].decode().strip(), f"router-{stamp[0] >> 2}")


STAMP = """
nft -f - <<END
table inet stamp {{
  chain forward {{
    type filter hook forward priority 0
    ip dscp set {number}
  }}
}}
END
"""
"""Makes each router mark the packets that pass it, in both directions."""


def exchange(flows: Sequence[Flow], stop: threading.Event) -> None:
    while not stop.is_set():
        for flow in flows:
            flow.send()
        time.sleep(0.02)
        for flow in flows:
            flow.receive()


@contextmanager
def traffic(flows: Sequence[Flow]) -> Iterator[None]:
    """Sends on every flow during the block; ends when no further answer arrives."""
    stop = threading.Event()
    thread = threading.Thread(target=exchange, args=(flows, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        settles(lambda: sum([flow.receive() for flow in flows]) == 0, seconds=3)  # of all flows


def test_a_crash_loses_nothing_but_what_was_addressed_to_the_replica_that_crashed(datapath: Datapath) -> None:
    replicas = {"client": 2, "router": 5, "server": 5}
    with world_of("crash", {"router": "router"}, datapath, replicas) as world, ExitStack() as cleanup:
        for router in world.of("router"):
            router.run("sh", "-ec", STAMP.format(number=router.name.removeprefix("router-")))
        server = (world.address("server", "wan", 4), Echo.PORT)
        flows = [Flow(client, server) for client in world.of("client") for _ in range(60)]
        for flow in flows:
            cleanup.callback(flow.close)
        with traffic(flows):
            assert settles(lambda: all(flow.way for flow in flows), seconds=30)

        for stage in ("router", "server") * 3:
            crashed = random.Random(SEED).choice(world.of(stage))
            way_before = {flow: flow.way for flow in flows}
            for flow in flows:
                flow.outstanding.clear()
            with traffic(flows):
                time.sleep(0.2)
                world.node.remove(crashed)
                assert settles(lambda gone=crashed.name: all(gone not in flow.way for flow in flows), seconds=30)

            hit = [flow for flow in flows if crashed.name in way_before[flow]]
            spared = [flow for flow in flows if crashed.name not in way_before[flow]]
            lost = sum(len(flow.outstanding) for flow in hit)
            print(f"\n{crashed.name} crashed under {len(hit)} of {len(flows)} flows: {lost} of their datagrams lost")
            assert hit
            assert [flow.way for flow in spared] == [way_before[flow] for flow in spared]
            assert not any(flow.outstanding for flow in spared)
