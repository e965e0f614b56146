"""Images: the sandbox image, and loading images into the nodes."""

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed import archive
from testbed.errors import TestbedError
from testbed.kubelet import PAUSE
from testbed.nodes import inside
from testbed.paths import CACHE
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
    """Imports docker-archives into the containerd of every node, all nodes at once."""
    wanted = [(image, node) for image in images for node in nodes]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda pair: _import(*pair), wanted):
            pass


def _import(image: Path, node: Daemon) -> None:
    command = inside(node, "ctr", "--namespace=k8s.io", "images", "import", "-")
    with image.open("rb") as content:
        done = subprocess.run(command, stdin=content, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"{image}: {node.name} cannot import it: {done.stderr.strip()}\nIt must be a docker-archive.")
