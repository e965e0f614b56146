"""Runs programs: to their end, or as daemons inside the testbed's cgroup; one process at a time, where that matters."""

import fcntl
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import cgroups
from testbed.errors import TestbedError
from testbed.paths import LOG, RUN
from testbed.progress import tail

POLL_SECONDS = 0.1
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(*argv: str | Path, stdin: str | None = None) -> str:
    """Runs a program; returns its standard output. TestbedError with its standard error when it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"`{shlex.join(words)}` ended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of ours, by name. It counts as ours while it is in our cgroup, so that a reused pid cannot mislead."""

    name: str
    pid: int

    @property
    def log(self) -> Path:
        """The file with its standard output and standard error."""
        return LOG / f"{self.name}.log"

    def alive(self) -> bool:
        """Whether the process runs and is ours."""
        return cgroups.holds(self.pid)


def spawn(name: str, argv: Sequence[str | Path], *, pass_fds: Sequence[int] = ()) -> Daemon:
    """Starts a daemon in a session of its own, with a clean environment.

    It enters the cgroup before it becomes the program, so that `down` cannot miss it.
    """
    enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(cgroups.daemons() / "cgroup.procs")]
    with (LOG / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [*enter, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"PATH": SYSTEM_PATH},
            start_new_session=True,
            pass_fds=pass_fds,
        )
    (RUN / name).write_text(str(child.pid))
    while child.poll() is None and not cgroups.holds(child.pid):
        time.sleep(0.001)
    return Daemon(name, child.pid)


def recorded() -> dict[str, Daemon]:
    """The daemons that `up` started, by name, whether they still run or not."""
    if not RUN.is_dir():
        return {}
    return {file.name: Daemon(file.name, int(file.read_text() or 0)) for file in sorted(RUN.iterdir())}


def wait_for(what: str, condition: Callable[[], bool], *, seconds: float, daemon: Daemon) -> None:
    """Returns when `condition` holds; `what` is its name in messages.

    TestbedError, with the end of the daemon's log, when the daemon ends or `seconds` are over.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if not daemon.alive():
            raise TestbedError(f"{what}: no, {daemon.name} ended. The end of {daemon.log}:\n{tail(daemon.log)}")
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: not within {seconds:.0f} s. The end of {daemon.log}:\n{tail(daemon.log)}")
        time.sleep(POLL_SECONDS)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; waits while another process holds it. The lock ends with the process."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
