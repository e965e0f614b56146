"""kubectl as the demo uses it. Commands that a reader can learn from are printed; those that only look are not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 60
PAUSE_SECONDS = 0.5
SAY_SECONDS = 5.0


class DemoError(Exception):
    """The demo cannot go on. The message says why, and where to look."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl with one kubeconfig. Methods that wait raise DemoError if kubectl fails or takes too long, usually
    ANSWER_SECONDS."""

    program: str
    kubeconfig: str | None
    """Path of the kubeconfig; None for kubectl's default."""

    def act(self, *arguments: str, seconds: float = ANSWER_SECONDS) -> None:
        """Prints the command, runs it, and prints its output; `seconds`: how long it may take."""
        print(f"\n$ kubectl {shlex.join(arguments)}", flush=True)
        for line in self.ask(*arguments, seconds=seconds).splitlines():
            print(f"  {line}", flush=True)

    def ask(self, *arguments: str, seconds: float = ANSWER_SECONDS) -> str:
        """The output of a command, then its warnings."""
        done = self._run(*arguments, seconds=seconds)
        return done.stdout + done.stderr

    def get(self, *arguments: str) -> dict[str, Any]:
        """The object, or the list of objects, as JSON."""
        found: dict[str, Any] = json.loads(self._run("get", *arguments, "--output=json").stdout)
        return found

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Prints the command and starts it; its three streams are pipes. Does not wait for it."""
        print(f"\n$ kubectl {shlex.join(arguments)} &", flush=True)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [self.program, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=self._env()
        )

    def _run(self, *arguments: str, seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
        command = [self.program, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, env=self._env(), check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DemoError(f"kubectl {shlex.join(arguments)}: {error}") from error
        if done.returncode:
            raise DemoError(f"kubectl {shlex.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def _env(self) -> dict[str, str]:
        return dict(os.environ) | ({"KUBECONFIG": self.kubeconfig} if self.kubeconfig else {})


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a look at the cluster."""

    done: bool
    """True when the cluster is as expected."""
    words: str
    """Its state in a few words."""


def wait(look: Callable[[], Answer], *, seconds: float, note: Callable[[], str] = lambda: "") -> float:
    """Looks until done, and returns how many seconds that took. Raises DemoError after `seconds`.

    Prints the words when they change, and every SAY_SECONDS, so that the reader sees progress. `note` is printed behind
    them. A look that raises DemoError counts as not done.
    """
    began = said_at = time.monotonic()
    said = ""
    while True:
        answer = _attempt(look)
        now = time.monotonic()
        if answer.words != said or now - said_at >= SAY_SECONDS:
            print(f"  {now - began:4.0f} s  {answer.words}{note()}", flush=True)
            said, said_at = answer.words, now
        if answer.done:
            return now - began
        if now - began > seconds:
            raise DemoError(f"not done within {seconds:.0f} s: {answer.words}")
        time.sleep(PAUSE_SECONDS)


def _attempt(look: Callable[[], Answer]) -> Answer:
    try:
        return look()
    except DemoError as error:
        return Answer(False, str(error))
