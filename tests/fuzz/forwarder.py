"""The CNI plugin, built with sanitizers, between a container runtime and an agent that may each send anything.

It is not guided by coverage, because the plugin has a few dozen lines and each input needs a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.node.cni.answer import Code
from controller.node.cni.call import ANSWER, HEADER, LIMIT, MAGIC

SOURCE = Path(__file__).parents[2] / "cni" / "sfc-cni.c"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=gnu11"]
REPORT = b"Sanitizer"

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=300)
environments = st.dictionaries(
    st.sampled_from(["CNI_COMMAND", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_", "CNI_X", "PATH", "LANG"]),
    texts | st.sampled_from(["ADD", "DEL", "/proc/self/ns/net", "/nowhere", "a" * 100_000]),
    max_size=6,
)
blobs = st.binary(max_size=2000) | st.sampled_from([b"a" * LIMIT, b"a" * (LIMIT - 40), b"a" * 70_000])
lengths = st.sampled_from([None, 0, 1, LIMIT, LIMIT + 1, 2**31, 2**32 - 1])
statuses = st.integers(0, 2**32 - 1)


@dataclass
class Agent:
    """Answers one call at a time with whatever it was told to, and keeps what it was sent."""

    listener: socket.socket
    answer: bytes = b""
    calls: list[bytes] = field(default_factory=list)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    self.calls.append(_call(connection))
                    connection.sendall(self.answer)


def _call(connection: socket.socket) -> bytes:
    data = bytearray()
    while len(data) < HEADER.size:
        data += connection.recv(HEADER.size)
    _, *lengths = HEADER.unpack(data[: HEADER.size])
    while len(data) < HEADER.size + sum(lengths):
        data += connection.recv(1 << 16)
    return bytes(data)


@contextlib.contextmanager
def agent(path: Path) -> Iterator[Agent]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        running = Agent(listener)
        threading.Thread(target=running.serve, daemon=True).start()
        yield running
        listener.shutdown(socket.SHUT_RDWR)


def fuzz(inputs: int) -> None:
    """Raises when the plugin does anything but pass on what both sides said."""
    with tempfile.TemporaryDirectory() as folder, agent(Path(folder) / "sock") as running:
        plugin = Path(folder) / "sfc-cni"
        defines = [f'-DSFC_SOCKET="{folder}/sock"', "-DSFC_TIMEOUT_SECONDS=5"]
        subprocess.run(["gcc", *SANITIZERS, *defines, "-o", plugin, SOURCE], check=True)

        @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(environments, blobs, statuses, lengths, blobs)
        def passes_on(
            environment: dict[str, str], configuration: bytes, status: int, length: int | None, output: bytes
        ) -> None:
            length = len(output) if length is None else length
            running.answer = ANSWER.pack(status, length) + output
            running.calls.clear()

            result = subprocess.run(
                [plugin], input=configuration, env=environment, capture_output=True, timeout=30, check=False
            )

            assert REPORT not in result.stderr, result.stderr.decode(errors="replace")
            if running.calls:
                assert running.calls == [packed(environment, configuration)]
            if running.calls and length <= min(LIMIT, len(output)):
                assert (result.returncode, result.stdout) == (status & 0xFF, output[:length])
            else:
                assert result.returncode == 1
                assert json.loads(result.stdout)["code"] in (Code.INVALID_ENVIRONMENT, Code.IO_FAILURE, 11)

        passes_on()


def packed(environment: dict[str, str], configuration: bytes) -> bytes:
    variables = b"".join(
        os.fsencode(name) + b"=" + os.fsencode(value) + b"\0"
        for name, value in environment.items()
        if name.startswith("CNI_")
    )
    return HEADER.pack(MAGIC, len(variables), len(configuration)) + variables + configuration
