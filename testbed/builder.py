"""Builds images without a registry: a Debian base made on this machine, ordinary Dockerfiles on top.

Every build gets this machine's access to its package sources (apt sources, proxies, pip configuration, certificates)
from outside. A Dockerfile just runs `apt-get install` or `pip install` and contains none of it.
"""

import configparser
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from testbed import archive
from testbed.errors import TestbedError
from testbed.paths import CACHE
from testbed.process import alone, run
from testbed.progress import long_step, say, tail

RELEASE = "bookworm"
BASE = f"docker.io/library/debian:{RELEASE}-slim"
APT_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
# Files that the official slim image leaves out, too.
SLIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INSIDE = "/run/testbed"
"""Where a build finds the machine's certificates. Not at their usual place, because packages write there."""


@dataclass(frozen=True, slots=True)
class Store:
    """Buildah's storage for one base image, and the archives built in it."""

    folder: Path

    @property
    def has_base(self) -> Path:
        """A file that exists once the base image is complete."""
        return self.folder / "has-base"

    def archive_of(self, reference: str, key: str) -> Path:
        """Where the docker-archive of an image is, or will be; `key` is a hash of what it is built from."""
        return self.folder / "archives" / f"{quote(reference, safe='')}-{key}.tar"


def build_image(reference: str, dockerfile: Path, context: Path) -> Path:
    """The docker-archive of an image. It is built only when Dockerfile, context or base have changed.

    `reference` is the image's name. Only the newest archive of a name is kept. TestbedError when the build fails.
    """
    store = base_image()
    with alone(store.folder / "lock"):
        return _up_to_date(store, reference, dockerfile, context)


def export_image(reference: str, dockerfile: Path, context: Path, name: str, layout: Path) -> None:
    """Writes an image to a new folder `layout`, as an OCI image layout in which it is called `name`.

    It is built first, as by `build_image`, when that has not been done. The manifest, and so the digest by which a
    registry will know the image, is the same for every export.
    """
    store = base_image()
    with alone(store.folder / "lock"):
        _up_to_date(store, reference, dockerfile, context)
        log = store.folder / f"{quote(reference, safe='')}.export.log"
        log.unlink(missing_ok=True)
        with long_step(f"exporting {name}"):
            _buildah(store, ["push", "--quiet", reference, f"oci:{layout}:{name}"], log)


def base_digest() -> str:
    """The sha256 of the base image's configuration, which names its only layer by a digest; in hexadecimal."""
    store = base_image()
    with alone(store.folder / "lock"):
        answer = store.folder / "base.digest"
        answer.unlink(missing_ok=True)
        _buildah(store, ["images", "--quiet", "--no-trunc", BASE], answer)
        return answer.read_text().strip().removeprefix("sha256:")


def archive_named(image: str) -> Path:
    """The docker-archive for a file's path, or for the name of an image that `build_image` has made.

    TestbedError when it is neither.
    """
    if Path(image).is_file():
        return Path(image)
    built = [*CACHE.glob(f"images-*/archives/{quote(image, safe='')}-*.tar")]
    if not built:
        raise TestbedError(f"load-image: {image!r} is neither a file nor an image made by build-image")
    return max(built, key=lambda file: file.stat().st_mtime)


def base_image() -> Store:
    """Makes the base image, unless one from the same package sources exists."""
    sources = _sources()
    digest = hashlib.sha256("\0".join([BASE, *SLIM, *(file.read_text() for file in sources)]).encode()).hexdigest()
    store = Store(CACHE / f"images-{digest[:12]}")
    store.folder.mkdir(parents=True, exist_ok=True)
    with alone(store.folder / "lock"):
        if not store.has_base.exists():
            _make_base(store, sources)
            store.has_base.touch()
    return store


def _sources() -> list[Path]:
    """The machine's apt sources that name the release; the base image is made from them."""
    single, folder = APT_SOURCES
    files = [single, *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    found = [file for file in files if file.exists() and f"{RELEASE} " in file.read_text().replace("\n", " ")]
    if not found:
        places = " or ".join(map(str, APT_SOURCES))
        raise TestbedError(f"no apt source for Debian {RELEASE} in {places}: add one, the base image is made from it")
    return found


def _make_base(store: Store, sources: Sequence[Path]) -> None:
    with (
        long_step(f"making the base image {BASE} (once)"),
        tempfile.TemporaryDirectory(dir=store.folder, prefix="base.") as folder,
    ):
        layer, image = Path(folder) / "layer.tar", Path(folder) / "image.tar"
        options = [f"--dpkgopt={option}" for option in SLIM]
        options += ["--variant=minbase", '--aptopt=Acquire::Languages "none"']
        run("mmdebstrap", *options, RELEASE, layer, *sources)
        archive.write(image, BASE, layer, command=["bash"])
        _buildah(store, ["pull", "--quiet", f"docker-archive:{image}"], store.folder / "base.log")


def _up_to_date(store: Store, reference: str, dockerfile: Path, context: Path) -> Path:
    image = store.archive_of(reference, _key(reference, dockerfile, context))
    if image.exists():
        say(f"{reference}: unchanged")
    else:
        _build(store, reference, dockerfile, context, image)
    return image


def _build(store: Store, reference: str, dockerfile: Path, context: Path, image: Path) -> None:
    log = store.folder / f"{quote(reference, safe='')}.log"
    log.unlink(missing_ok=True)
    image.parent.mkdir(exist_ok=True)
    unfinished = image.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with long_step(f"building {reference}"), _machine_settings() as volumes:
        options = ["--layers", "--pull-never", "--network=host", *volumes]
        _buildah(store, ["build", *options, f"--tag={reference}", f"--file={dockerfile}", str(context)], log)
        _buildah(store, ["push", "--quiet", reference, f"docker-archive:{unfinished}:{reference}"], log)
    for older in image.parent.glob(f"{quote(reference, safe='')}-*.tar"):
        older.unlink()
    unfinished.rename(image)


def _buildah(store: Store, command: Sequence[str], log: Path) -> None:
    """Runs buildah in a mount namespace of its own; otherwise it would leave its storage mounted."""
    place = [f"--root={store.folder}/storage", f"--runroot={store.folder}/run", "--storage-driver=overlay"]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    with log.open("ab") as output:
        full = ["unshare", "--mount", "--propagation", "private", "buildah", *place, *command]
        done = subprocess.run(
            full, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode:
        raise TestbedError(f"`buildah {shlex.join(command)}` failed. The end of {log}:\n{tail(log, 40)}")


@contextmanager
def _machine_settings() -> Iterator[list[str]]:
    """Options that mount this machine's access to its package sources into a build. None of it stays in the image."""
    pip = _pip_settings(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        files = {"pip.conf": _pip_configuration(pip), "apt.conf": _apt_configuration()}
        for name, content in files.items():
            (Path(folder) / name).write_text(content)
        shown = {f"{folder}/pip.conf": "/etc/pip.conf", f"{folder}/apt.conf": "/etc/apt/apt.conf.d/99testbed"}
        if CERTIFICATES.exists():
            shown[str(CERTIFICATES)] = f"{INSIDE}/ca.crt"
        shown |= {place: place for place in pip.get("find-links", "").split() if Path(place).is_dir()}
        yield [f"--volume={source}:{target}:ro" for source, target in shown.items()]


def _pip_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that pip itself would use here: its files (a later one wins), then PIP_… variables."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(["/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    settings = dict(parser["global"]) if parser.has_section("global") else {}
    settings |= {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environment.items()
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"
    }
    if CERTIFICATES.exists():
        settings["cert"] = f"{INSIDE}/ca.crt"
    return settings


def _pip_configuration(settings: Mapping[str, str]) -> str:
    return "".join(["[global]\n", *(f"{name} = {value}\n" for name, value in settings.items())])


def _apt_configuration() -> str:
    """The machine's proxies and checks; nothing else of its apt configuration."""
    lines = run("apt-config", "dump").splitlines()
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check")
    chosen = [line for line in lines if line.startswith(wanted) and "CaInfo" not in line]
    if CERTIFICATES.exists():
        chosen.append(f'Acquire::https::CaInfo "{INSIDE}/ca.crt";')
    return "\n".join(chosen) + "\n"


def _key(reference: str, dockerfile: Path, context: Path) -> str:
    digest = hashlib.sha256(reference.encode() + dockerfile.read_bytes())
    for file in _files(context, _copied(dockerfile)):
        digest.update(f"{file.relative_to(context)}\0{file.stat().st_mode}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _copied(dockerfile: Path) -> list[str]:
    """The paths that the Dockerfile copies from its context. Other files do not affect the image."""
    words = [line.split() for line in dockerfile.read_text().splitlines()]
    copies = [line[1:-1] for line in words if line and line[0] in ("COPY", "ADD")]
    return [source for sources in copies if not sources[0].startswith("--from=") for source in sources]


def _files(context: Path, sources: list[str]) -> list[Path]:
    """The files that git tracks or would add. All files, without git or when git ignores the whole context."""
    command = ["git", "-C", str(context), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    known = [context / name for name in listed.stdout.split("\0") if name]
    found = known or context.rglob("*")
    wanted = [context / source for source in sources]
    return sorted(f for f in set(found) if f.is_file() and any(f.is_relative_to(source) for source in wanted))
