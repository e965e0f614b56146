"""How a relay gets the hooks' port from the agent."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.listener import newest_first
from controller.node.hooks.port import PortGiver, ask, open_port, open_to_relay
from sfc import names

HOST = "127.0.0.1"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sfc-port-") as made:
        Path(made).chmod(0o755)
        yield Path(made, "hooks")


@pytest.fixture
def address() -> tuple[str, int]:
    """One that is free."""
    with open_port(HOST, 0) as free:
        bound: tuple[str, int] = free.getsockname()
        return bound


@pytest.fixture
def agent(folder: Path, address: tuple[str, int]) -> Iterator[Path]:
    """Gives the port at this path, to the relay's user."""
    relay = names.RELAY if os.getuid() == 0 else os.getuid()
    open_to_relay(folder, relay)
    giver = PortGiver(folder / "port.sock", address, relay)
    giver.start()
    yield folder / "port.sock"
    giver.stop()


def answered_by(listener: socket.socket, address: tuple[str, int]) -> bool:
    listener.settimeout(10)
    with socket.create_connection(address):
        try:
            listener.accept()[0].close()
        except TimeoutError:
            return False
        return True


def test_each_relay_gets_a_socket_of_its_own_and_calls_go_to_the_newest(agent: Path, address: tuple[str, int]) -> None:
    older, newer = ask(agent), ask(agent)
    for listener in (older, newer):
        listener.listen()
        newest_first(listener)

    first = answered_by(newer, address)
    newer.close()
    then = answered_by(older, address)
    older.close()

    assert (first, then) == (True, True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as somebody else")
def test_a_relay_without_rights_shares_the_port_with_one_that_runs_as_root(
    agent: Path, address: tuple[str, int]
) -> None:
    """The relay of an earlier version binds the port itself, before ours comes or after it."""
    with open_port(*address) as earlier:
        earlier.listen()

        given = _ask_as(names.RELAY, agent)
        alone = _run_as(names.RELAY, f"from controller.node.hooks.port import *; open_port{address}")

    assert given == "listens"
    assert "Address already in use" in alone  # the reason for all of this


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as somebody else")
def test_nobody_else_gets_the_port(agent: Path) -> None:
    locked_out = _ask_as(65532, agent)
    open_to_all = agent.parent.parent / "open.sock"
    open_to_all.hardlink_to(agent)
    open_to_all.chmod(0o666)  # so that only the look at the caller is left

    refused = _ask_as(65532, open_to_all)

    assert "PermissionError" in locked_out
    assert "gave no socket" in refused


def test_without_an_agent_asking_fails_at_once(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(folder / "port.sock")


def _ask_as(user: int, path: Path) -> str:
    ask_and_listen = f"ask(Path('{path}')).listen(); print('listens')"
    return _run_as(user, f"from pathlib import Path; from controller.node.hooks.port import *; {ask_and_listen}")


def _run_as(user: int, script: str) -> str:
    """The last line that it prints."""
    import_path = Path(__file__).resolve().parents[2]
    command = ["/usr/bin/python3", "-c", script]
    done = subprocess.run(
        command, check=False, user=user, group=user, extra_groups=[], cwd=import_path, capture_output=True, text=True
    )
    return (done.stdout + done.stderr).strip().rpartition("\n")[2]
