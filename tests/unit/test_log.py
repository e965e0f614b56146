"""A process writes JSON lines to standard error and nothing else, whatever goes wrong in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def lines(script: str) -> list[dict[str, Any]]:
    """What a process that runs it writes."""
    whole = f"from sfc import log\nlog.configure()\n{script}\n"
    done = subprocess.run([sys.executable, "-c", whole], cwd=CHECKOUT, check=False, capture_output=True, text=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("script", "message", "words"),
    [
        ("1 / 0", "the process ends", "ZeroDivisionError"),
        (
            "import threading; t = threading.Thread(target=lambda: 1 / 0, name='t'); t.start(); t.join()",
            "thread ended",
            "ZeroDivisionError",
        ),
        ("import warnings; warnings.warn('old and\\nnew')", "", "old and\\nnew"),
        ("import sys; print('a library says', file=sys.stderr)", "printed", "a library says"),
        ("import logging; logging.warning('%d', 'x')", "printed", "TypeError: %d format"),
        (
            "import socketserver; s = socketserver.TCPServer(('127.0.0.1', 0), None)\n"
            "try: 1 / 0\nexcept ZeroDivisionError: s.handle_error(None, ('10.0.0.1', 7))",
            "printed",
            "ZeroDivisionError",
        ),
        (
            "class Late:\n    def __del__(self): 1 / 0\nLate()",
            "an exception could not be raised",
            "ZeroDivisionError",
        ),
        (
            "import os\nwith log.printed_by_libraries(): os.write(2, b'cross_connect.c:7: error\\n')",
            "printed",
            "cross_connect.c:7: error",
        ),
        ("import argparse; argparse.ArgumentParser().parse_args(['--what'])", "printed", "--what"),
    ],
)
def test_what_goes_wrong_is_logged_in_json(script: str, message: str, words: str) -> None:
    written = lines(script)

    assert any(words in json.dumps(line) for line in written), written
    assert message in {line["message"] for line in written} or not message


def test_what_the_log_says_while_a_library_prints_is_not_lost() -> None:
    script = "import logging, os\nwith log.printed_by_libraries(): logging.info('meanwhile'); os.write(2, b'words\\n')"

    assert [line["message"] for line in lines(script)] == ["meanwhile", "printed"]
