"""The cgroups of everything that the testbed runs, on both versions of the kernel's interface.

Version 1 has one tree per controller, and pods appear in all of them. Our daemons only have to be found again, so they
join one of the trees. Version 2 has a single tree.
"""

import os
import signal
import time
from pathlib import Path

from testbed.errors import TestbedError
from testbed.paths import NAME

KILL_SECONDS = 15.0


def trees() -> list[Path]:
    """Mount points of all cgroup trees, those of version 1 first.

    A machine on version 1 may have a version-2 tree as well, and container runtimes make folders there, too.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [(kind, Path(target)) for _, target, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]
    return [target for _, target in sorted(dict.fromkeys(found))]


def _controlled() -> list[Path]:
    """The trees with the controllers: all of version 1, or the only one of version 2."""
    return [tree for tree in trees() if not (tree / "cgroup.controllers").exists()] or trees()


def daemons() -> Path:
    """The cgroup of our daemons, made if necessary. It is a leaf, because version 2 allows processes in leaves only."""
    folder = next((tree for tree in trees() if tree.name == "pids"), _controlled()[0]) / NAME / "daemons"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def node_root(node: str) -> str:
    """Makes the cgroup under which a node's kubelet puts its pods; returns its path inside the trees."""
    for tree in _controlled():
        for folder in (tree / NAME, tree / NAME / node):
            folder.mkdir(exist_ok=True)
            _inherit_cpuset(folder)
    return f"/{NAME}/{node}"


def _inherit_cpuset(folder: Path) -> None:
    """Copies CPUs and memory nodes from the parent: a new version-1 cpuset has none, and accepts no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())


def holds(pid: int) -> bool:
    """Whether this process is alive and one of ours."""
    process = Path("/proc") / str(pid)
    try:
        in_ours = f"/{NAME}/" in (process / "cgroup").read_text()
        return in_ours and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes() -> set[int]:
    """Every process in our cgroups, pods included."""
    files = [file for tree in trees() for file in (tree / NAME).rglob("cgroup.procs")]
    return {int(pid) for file in files for pid in _read(file).split()}


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # a pod's cgroup that has just gone
        return ""


def kill_everything() -> None:
    """Kills every process in our cgroups, then removes the cgroups. Does nothing when there are none.

    TestbedError when that is not over after KILL_SECONDS.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while alive := processes():
        if time.monotonic() > deadline:
            raise TestbedError(f"processes {sorted(alive)} do not end although killed: look for them in `ps -o stat`")
        for pid in alive:
            _kill(pid)
        time.sleep(0.05)
    for tree in trees():
        _remove(tree / NAME, deadline)


def _kill(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if holds(pid):  # the open handle keeps the number from being reused
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _remove(folder: Path, deadline: float) -> None:
    if not folder.is_dir():
        return
    for child in [child for child in folder.iterdir() if child.is_dir()]:
        _remove(child, deadline)
    while folder.is_dir():
        try:
            folder.rmdir()
        except OSError as error:  # busy for a moment after its last process
            if time.monotonic() > deadline:
                raise TestbedError(f"cgroup {folder} cannot be removed: {error}") from error
            time.sleep(0.02)
