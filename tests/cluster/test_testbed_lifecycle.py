"""The testbed leaves no trace, and comes up over the remains of a killed run. These tests end the cluster."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import CHECKOUT, TESTBED, testbed


def traces(name: str = TESTBED) -> list[str]:
    """Everything of a testbed that is visible on the machine. Namespaces and pins exist only while processes or mounts
    hold them.
    """
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    groups = [file for file in Path("/proc").glob("[0-9]*/cgroup") if f"/{name}/" in text(file)]
    return [
        *(f"process {file.parent.name}" for file in groups if ") Z " not in text(file.with_name("stat"))),
        *(f"cgroup {folder}" for folder in Path("/sys/fs/cgroup").glob(f"**/{name}")),
        *(f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if name in line),
        *(f"link {line}" for line in links.splitlines() if line.startswith(("fabric", "node1", "node2"))),
        *(f"folder {place}" for place in ("/var/lib", "/run") if Path(place, name).exists()),
    ]


def text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # a process that has just ended
        return ""


def up_killed_after(seconds: float, name: str = TESTBED, checkout: Path = CHECKOUT) -> None:
    command = [sys.executable, "-m", "testbed", "up", "--nodes", "2"]
    environment = {**os.environ, "SFC_TESTBED": name}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=checkout, env=environment, **silent) as process:
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


def test_make_clean_ends_every_cluster_of_its_checkout_and_no_other(tmp_path: Path) -> None:
    """In a copy, because the checkout may have clusters that somebody uses."""
    names = [f"sfc-clean-{letter}" for letter in "abc"]
    copies = [tmp_path / place for place in ("ours", "theirs")]
    for copy in copies:
        shutil.copytree(CHECKOUT / "testbed", copy / "testbed")
        shutil.copy(CHECKOUT / "Makefile", copy)
    for name, checkout in zip(names, (copies[0], copies[0], copies[1]), strict=True):
        up_killed_after(1.5, name, checkout)
    (copies[0] / "build").mkdir()

    before = [bool(traces(name)) for name in names]
    first = subprocess.run(["make", "clean"], cwd=copies[0], capture_output=True, text=True, check=False)
    between = [bool(traces(name)) for name in names]
    subprocess.run(["make", "clean"], cwd=copies[1], check=True, capture_output=True)

    assert first.returncode == 0, first.stderr
    assert (before, between) == ([True, True, True], [False, False, True])
    assert traces(names[2]) == []
    assert not (copies[0] / "build").exists()
