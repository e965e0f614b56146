"""Container images made from a tree of files, in the docker-archive format that containerd and buildah both read."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path


def write(archive: Path, reference: str, layer: Path, *, command: Sequence[str]) -> None:
    """Writes an image of one layer to `archive`.

    `layer` is an uncompressed tar file, `reference` the image's name, `command` what its containers run by default.
    """
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": list(command)},
            "history": [{"created_by": "testbed"}],  # buildah expects an entry for each layer
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = hashlib.sha256(configuration).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, name, configuration)
        tar.add(layer, f"{digest}/layer.tar")
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
