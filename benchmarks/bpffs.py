"""A BPF file system of a benchmark's own: its pins are nobody else's, and go with it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def private_bpffs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sfc-bench-") as path:
        subprocess.run(["mount", "-t", "bpf", "none", path], check=True)
        try:
            yield Path(path)
        finally:
            subprocess.run(["umount", "-l", path], check=True)
