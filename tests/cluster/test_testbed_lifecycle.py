"""The testbed leaves no trace, and comes up over the remains of a killed run. These tests end the cluster."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import CHECKOUT, TESTBED, testbed


def traces() -> list[str]:
    """Everything of the testbed that is visible on the machine. Namespaces and pins exist only while processes or
    mounts hold them.
    """
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    groups = [file for file in Path("/proc").glob("[0-9]*/cgroup") if f"/{TESTBED}/" in text(file)]
    return [
        *(f"process {file.parent.name}" for file in groups if ") Z " not in text(file.with_name("stat"))),
        *(f"cgroup {folder}" for folder in Path("/sys/fs/cgroup").glob(f"**/{TESTBED}")),
        *(f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if TESTBED in line),
        *(f"link {line}" for line in links.splitlines() if line.startswith(("fabric", "node1", "node2"))),
        *(f"folder {place}" for place in ("/var/lib", "/run") if Path(place, TESTBED).exists()),
    ]


def text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # a process that has just ended
        return ""


def up_killed_after(seconds: float) -> None:
    command = [sys.executable, "-m", "testbed", "up", "--nodes", "2"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)


def test_down_leaves_nothing_of_a_running_cluster_and_may_be_repeated(cluster: None) -> None:
    assert traces() != []

    results = [testbed("down").returncode, testbed("down").returncode]

    assert results == [0, 0]
    assert traces() == []


@pytest.mark.parametrize("seconds", [0.3, 0.8, 2.0, 4.0])
def test_down_leaves_nothing_of_an_up_that_was_killed(seconds: float) -> None:
    up_killed_after(seconds)

    ended = testbed("down")

    assert ended.returncode == 0, ended.stderr
    assert traces() == []


def test_up_succeeds_over_a_killed_up_and_over_a_cluster_that_lost_a_daemon() -> None:
    up_killed_after(3.0)
    first = testbed("up", "--nodes", "1")
    testbed("exec", "node1", "pkill", "-KILL", "kube-scheduler")
    status = testbed("status")
    second = testbed("up")
    testbed("down")

    assert first.returncode == 0, first.stderr
    assert status.returncode == 1
    assert "kube-scheduler ended" in status.stdout
    assert second.returncode == 0, second.stderr
