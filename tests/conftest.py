"""What all tests share: no time limit for an example of hypothesis, a BPF file system apart from the machine's, and
programs that are compiled once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that does other work beside is no fault of the code. Where cost matters, a test counts steps.
settings.register_profile("no-clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-clock")


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(scope="session")
def compiled_once(bpffs: Path) -> Iterator[None]:
    """From now on, each program is compiled once for all nodes that have it with the same options."""
    from controller.node.kernel import program  # noqa: PLC0415  unit tests need no BCC
    from tests.compilation import Compilations  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_compiled", Compilations(program._compiled, bpffs / "compiled").compiled)
        yield
