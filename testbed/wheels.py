"""Installs Python packages that need a folder of their own, by a lock file with hashes.

A folder of pins has `requirements.txt` and, written by `make lock`, `requirements.lock`. The packages are in the user's
cache, in a folder whose name contains a hash of the lock file, like the binaries of `testbed.build`.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from testbed.paths import CACHE, PINS
from testbed.process import alone, run
from testbed.progress import long_step


def folder(name: str) -> Path:
    """The folder with the packages of `testbed/pins/NAME`, for PYTHONPATH. It is filled first, when it is not there.

    TestbedError when a package cannot be had, or has another hash.
    """
    lock = PINS / name / "requirements.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    wanted = CACHE / f"{name}-{digest}"
    if not wanted.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with alone(CACHE / f"{name}.lock"):
            if not wanted.is_dir():
                _install(lock, name, wanted)
    return wanted


def _install(lock: Path, name: str, wanted: Path) -> None:
    """Installs into a temporary folder and renames it at the end, so that an aborted one does not look finished."""
    for abandoned in CACHE.glob(f"{name}.installing-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}.installing-", dir=CACHE))
    flags = ["--quiet", "--require-hashes", "--only-binary=:all:", f"--target={work}"]
    with long_step(f"installing the Python packages of {name} (once)"):
        run(sys.executable, "-m", "pip", "install", *flags, "--requirement", lock)
    work.rename(wanted)
