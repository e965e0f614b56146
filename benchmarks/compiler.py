"""Compiles the C programs that make traffic."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.report import BUILD

HERE = Path(__file__).resolve().parent


def compiled(source: str) -> Path:
    """The program made from a source in this folder, in build/bench; CalledProcessError when gcc fails."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / Path(source).stem
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, HERE / source], check=True)
    return program
