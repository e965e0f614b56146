"""One image of a release: from an OCI image layout, the archive that is shipped, its digest, and files for its SBOM.

The format: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

WHITEOUT = ".wh."
"""Prefix of a file that removes the file of that name, which an earlier layer has."""


def digest(layout: Path) -> str:
    """The digest of the manifest, such as `sha256:…`: a registry will know the image by it."""
    return str(_only_manifest(layout)["digest"])


def write_archive(layout: Path, archive: Path, seconds: int) -> None:
    """Writes the layout as one file, which `podman load`, `ctr images import` and `skopeo copy oci-archive:` read.

    `seconds` since 1970 is the time of its files, so that the same image always gives the same bytes.
    """

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = seconds, 0, 0, "", ""
        return entry

    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(layout.rglob("*")):
            tar.add(file, str(file.relative_to(layout)), recursive=False, filter=anonymous)


def unpack(layout: Path, root: Path, wanted: Callable[[str], bool]) -> None:
    """Writes those regular files of the image below `root` whose path (`usr/lib/…`) is wanted."""
    for layer in _blob(layout, _only_manifest(layout)["digest"])["layers"]:
        with tarfile.open(_file(layout, layer["digest"])) as tar:
            for entry in tar:
                path = Path(entry.name)
                if path.name.startswith(WHITEOUT):
                    _remove(root / path.with_name(path.name.removeprefix(WHITEOUT)))
                elif entry.isfile() and wanted(entry.name) and (content := tar.extractfile(entry)):
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / path).write_bytes(content.read())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _only_manifest(layout: Path) -> dict[str, Any]:
    (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
    return dict(manifest)


def _blob(layout: Path, wanted: str) -> Any:
    return json.loads(_file(layout, wanted).read_text())


def _file(layout: Path, wanted: str) -> Path:
    return layout / "blobs" / wanted.replace(":", "/")
