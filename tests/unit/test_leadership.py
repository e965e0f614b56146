"""Two agents of one node, in one process. Locks belong to the open file, so they exclude each other like processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from controller.node.leadership import Leadership
from controller.node.plane.drain import Drain

NODE = Path(__file__).parents[2] / "deploy" / "node.yaml"
DRAIN = Drain("uid-1", confirmed=True, asked_at=10.0, deadline=40.0, out_of_targets_at=10.002, active_sessions=3)


class Agent:
    """An agent that acquires leadership in a thread of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.leadership = Leadership(folder, name)
        self.stop = threading.Event()
        self.drains: Sequence[Drain] | None = None
        self._thread = threading.Thread()

    def acquire(self, *, asks: bool = True) -> None:
        def run() -> None:
            self.drains = self.leadership.acquire(self.stop, lambda: asks)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def leads(self, seconds: float = 5.0) -> bool:
        """Whether it acquires leadership within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive() and self.drains is not None


@pytest.fixture
def old(tmp_path: Path) -> Agent:
    agent = Agent(tmp_path, "old")
    agent.acquire()
    assert agent.leads()
    agent.leadership.begin()
    return agent


@pytest.fixture
def new(old: Agent, tmp_path: Path) -> Agent:
    return Agent(tmp_path, "new")


def test_the_first_agent_leads_at_once_and_its_name_can_be_read(old: Agent, tmp_path: Path) -> None:
    assert old.drains == ()
    assert (tmp_path / "leader").read_text() == "old"


def started(folder: Path, pod: str) -> bool:
    """The result of the startup probe in deploy/node.yaml."""
    daemon_set = next(o for o in yaml.safe_load_all(NODE.read_text()) if o and o["kind"] == "DaemonSet")
    container = daemon_set["spec"]["template"]["spec"]["containers"][0]
    command = [part.replace("/run/sfc", str(folder)) for part in container["startupProbe"]["exec"]["command"]]
    return subprocess.run(command, env=os.environ | {"POD_NAME": pod}, check=False).returncode == 0


def test_an_agent_has_started_once_it_leads(old: Agent, tmp_path: Path) -> None:
    assert started(tmp_path, "old")
    assert not started(tmp_path, "new")


def test_an_agent_whose_name_was_left_by_the_one_that_was_killed_has_not_started(old: Agent, tmp_path: Path) -> None:
    """Otherwise the liveness probe would kill it before it has compiled its program."""
    os.close(old.leadership._lock)
    old.leadership._lock = os.open(os.devnull, os.O_RDWR)  # the fixture closes it at its end

    assert (tmp_path / "leader").read_text() == "old"
    assert not started(tmp_path, "old")


def test_a_newcomer_asks_and_goes_on_with_the_drains(old: Agent, new: Agent, tmp_path: Path) -> None:
    new.acquire()
    asked = old.leadership.asked(5)
    assert asked

    handed = threading.Thread(target=lambda: results.append(old.leadership.hand_over(asked, [DRAIN])))
    results: list[bool] = []
    handed.start()
    leads = new.leads()
    new.leadership.begin()
    handed.join(60)

    assert leads
    assert new.drains == (DRAIN,)
    assert results == [True]
    assert (tmp_path / "leader").read_text() == "new"


def test_a_drain_from_a_leader_of_another_version_is_taken_over_as_far_as_it_is_understood(
    old: Agent, new: Agent
) -> None:
    new.acquire()
    asked = old.leadership.asked(5)
    assert asked
    told = {"pod_uid": "uid-1", "incarnation": "c1", "asked_at": 10.0, "deadline": 40.0, "out_of_targets_at": 10.002}

    old.leadership._release()
    with asked:
        asked.sendall(json.dumps([told]).encode() + b"\n")
        leads = new.leads()

    assert leads
    assert new.drains == (Drain("uid-1", asked_at=10.0, deadline=40.0, out_of_targets_at=10.002),)


def test_a_newcomer_that_does_not_know_the_cluster_yet_waits(old: Agent, new: Agent) -> None:
    new.acquire(asks=False)

    asked = old.leadership.asked(0.2)
    stands_by = old.leadership.somebody_stands_by()
    new.stop.set()

    assert asked is None
    assert stands_by
    assert not new.leads()
    assert not old.leadership.somebody_stands_by()


def test_an_agent_that_stands_by_leads_when_the_leader_ends(old: Agent, new: Agent) -> None:
    new.acquire(asks=False)

    old.leadership.resign()

    assert new.leads()
    assert new.drains == ()


def killed(agent: Agent) -> None:
    """The kernel closes what a process had open; nothing else happens."""
    for descriptor in (agent.leadership._lock, agent.leadership._listener):
        os.close(descriptor if isinstance(descriptor, int) else descriptor.detach())


@pytest.fixture
def doomed(tmp_path: Path) -> Agent:
    agent = Agent(tmp_path, "doomed")
    agent.acquire()
    assert agent.leads()
    agent.leadership.begin()
    return agent


def test_an_agent_that_leads_after_one_that_was_killed_goes_on_with_its_drains(doomed: Agent, tmp_path: Path) -> None:
    unheard = Drain("uid-2", asked_at=11.0, deadline=float("inf"))
    doomed.leadership.note([DRAIN, unheard])
    killed(doomed)
    restarted = Agent(tmp_path, "restarted")

    restarted.acquire(asks=False)

    assert restarted.leads()
    assert restarted.drains == (DRAIN, unheard)


def test_drains_are_written_down_when_one_begins_moves_on_or_ends_and_not_for_each_count(
    doomed: Agent, tmp_path: Path
) -> None:
    file = tmp_path / "drains"
    doomed.leadership.note([DRAIN])
    began = file.stat().st_ino

    doomed.leadership.note([replace(DRAIN, active_sessions=2)])
    counted = file.stat().st_ino
    doomed.leadership.note([replace(DRAIN, active_sessions=0, ended_at=12.0)])
    ended = json.loads(file.read_text())["drains"]
    doomed.leadership.note([])

    assert counted == began
    assert [one["ended_at"] for one in ended] == [12.0]
    assert json.loads(file.read_text())["drains"] == []


@pytest.mark.parametrize("left", ["", "7", "{}", '{"boot": "another", "drains": [{"pod_uid": "uid-1"}]}'])
def test_what_a_killed_agent_left_half_written_or_before_another_boot_is_not_followed(
    left: str, doomed: Agent, tmp_path: Path
) -> None:
    (tmp_path / "drains").write_text(left)
    killed(doomed)
    restarted = Agent(tmp_path, "restarted")

    restarted.acquire(asks=False)

    assert restarted.leads()
    assert restarted.drains == ()


def test_a_newcomer_that_dies_before_it_leads_leaves_the_old_one_leading(old: Agent, tmp_path: Path) -> None:
    newcomer, its_end = socket.socketpair()
    its_end.close()

    led = old.leadership.hand_over(newcomer, [DRAIN])

    other = Agent(tmp_path, "other")
    other.acquire(asks=False)
    assert not led
    assert not other.leads(0.2)
    other.stop.set()


def test_the_folder_of_the_sockets_is_for_root_alone_whoever_made_it(tmp_path: Path) -> None:
    """The kubelet makes a hostPath that does not exist, for everybody to enter."""
    made = tmp_path / "sfc"
    made.mkdir(mode=0o755)

    Leadership(made, "agent")

    assert made.stat().st_mode & 0o777 == 0o700
