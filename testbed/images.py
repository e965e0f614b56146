"""Images: the sandbox image, and loading images into the nodes."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from testbed import archive
from testbed.errors import TestbedError
from testbed.kubelet import PAUSE
from testbed.nodes import inside
from testbed.paths import CACHE, STATE
from testbed.process import Daemon, run

SOURCE = Path(__file__).with_name("pause.c")


def pause() -> Path:
    """The docker-archive of the sandbox image, compiled once."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    made = CACHE / f"pause-{digest}.tar"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            program, layer, image = (Path(folder) / name for name in ("pause", "layer.tar", "image.tar"))
            run("gcc", "-Os", "-static", "-Wall", "-Werror", "-o", program, SOURCE)
            with tarfile.open(layer, "w") as tar:
                tar.add(program, "pause")
            archive.write(image, PAUSE, layer, command=["/pause"])
            image.rename(made)
    return made


def load(images: Iterable[Path], nodes: Iterable[Daemon]) -> None:
    """Brings docker-archives into the containerd of every node, all nodes at once; skips what a node has already."""
    wanted = [(image, node) for image in images for node in nodes]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda pair: _load(*pair), wanted):
            pass


def _load(image: Path, node: Daemon) -> None:
    """A record for each name says which image it means in this node, so that a name may move back and forth."""
    entry = _manifest(image)
    records = [STATE / node.name / "images" / quote(name, safe="") for name in entry["RepoTags"]]
    if records and all(record.exists() and record.read_text() == entry["Config"] for record in records):
        return
    _import(image, node)
    for record in records:
        record.write_text(entry["Config"])


def _manifest(image: Path) -> Any:
    try:
        with tarfile.open(image) as tar, tar.extractfile("manifest.json") or io.BytesIO() as content:
            return json.load(content)[0]
    except (OSError, tarfile.TarError, KeyError, ValueError, IndexError) as error:
        raise TestbedError(
            f"{image}: not a docker-archive ({error}): make one with `buildah push NAME docker-archive:FILE:NAME`"
        ) from error


def _import(image: Path, node: Daemon) -> None:
    command = inside(node, "ctr", "--namespace=k8s.io", "images", "import", "-")
    with image.open("rb") as content:
        done = subprocess.run(command, stdin=content, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"{image}: {node.name} cannot import it: {done.stderr.strip()}")
