"""A BPF file system of a benchmark's own: its pins are nobody else's, and go with it.

Its folder carries the process id in its name; that of a run that was killed is removed by the next.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "sfc-bench-"


@contextmanager
def private_bpffs() -> Iterator[Path]:
    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as path:
        subprocess.run(["mount", "-t", "bpf", "none", path], check=True)
        try:
            yield Path(path)
        finally:
            subprocess.run(["umount", "-l", path], check=True)


def _remove_leftovers() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        if not Path("/proc", path.name.removeprefix(PREFIX).partition("-")[0]).exists():
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)
            path.rmdir()
