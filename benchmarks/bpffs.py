"""A BPF file system for one benchmark alone, whose pins vanish with it.

The name of its folder contains the process id. A run removes the folders that killed runs left.
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
    """Mounts one; yields its folder."""
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
