"""Makes the sandbox image, and loads images into the nodes."""

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
    """The docker-archive of the sandbox image. It is compiled once and stays in the cache."""
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
    """Imports docker-archives into the containerd of every node, all nodes at once; skips what a node already has.

    TestbedError when a file is no docker-archive or a node cannot import it.
    """
    wanted = [(image, node) for image in images for node in nodes]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda pair: _load(*pair), wanted):
            pass


def _load(image: Path, node: Daemon) -> None:
    """Imports one image into one node, unless the records in the state folder show that the node has it.

    There is a record for each image name, with the image that the name stands for in this node. So a name may move to
    another image and back.
    """
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
