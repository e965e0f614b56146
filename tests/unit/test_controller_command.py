"""`python -m controller COMMAND`, before the command runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOLD_TO_STOP_DURING_IMPORTS = """
import os, signal, sys
from controller import __main__ as entry
class Imports:
    import_module = staticmethod(lambda name: os.kill(os.getpid(), signal.SIGTERM))
entry.importlib = Imports
sys.exit(entry.main(["node"]))
"""


def test_sigterm_is_heard_before_the_command_is_imported() -> None:
    """By a handler, without which the first process of a container would not hear it at all."""
    command = [sys.executable, "-c", TOLD_TO_STOP_DURING_IMPORTS]

    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)

    assert done.returncode == 0
