"""A version whose links and sessions are larger does all that this one does: nothing counts on today's sizes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.happenings import change_layout

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__")
TESTED = "observed or restarted_agent or link_that_leaves or ended_between or forgetting or gets_again or both_ends"
"""Of tests/bpf/test_datapath.py: what reads whole maps, and entries that are not unpacked."""


def test_larger_links_and_sessions_are_read_like_todays(tmp_path: Path) -> None:
    copy = tmp_path / "next"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    change_layout(copy)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/bpf/test_datapath.py",
        "-k",
        TESTED,
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}

    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
