"""`python -m release VERSION`: writes a release to dist/. CONTRIBUTING.md, Releases, says what is in it."""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from release import image, provenance, sbom
from release.provenance import Artifact
from testbed import build, builder
from testbed.__main__ import DEFAULT_KUBERNETES
from testbed.errors import TestbedError
from testbed.paths import CHECKOUT
from testbed.process import run

IMAGES = ("webhook", "cluster-controller", "controller")
MANIFESTS = {"sfc": (), "sfc-with-cert-manager": ("cert-manager",)}
"""Each rendering of deploy/, with its kustomize components."""
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")
UNFINISHED = "-dev"
CHECKSUMS = "SHA256SUMS"


class ReleaseError(Exception):
    """Something the user must act on; the text says what is wrong, where, and what to do."""


def main() -> int:
    """The exit status: 0, or 1 with one line of explanation on standard error."""
    parser = argparse.ArgumentParser(prog="python -m release", description="Writes a release.")
    parser.add_argument("version", help="such as 1.2.3; with a final -dev, the checkout may have uncommitted changes")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist", help="folder, which is replaced")
    arguments = parser.parse_args()
    try:
        write(arguments.version, arguments.output.resolve())
    except (ReleaseError, TestbedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write(version: str, output: Path) -> None:
    """Writes all files of a release to a new folder, which then takes the place of `output`."""
    what = _build(version)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        made = Path(folder, "made")
        made.mkdir()
        for name, components in MANIFESTS.items():
            (made / f"{name}-{version}.yaml").write_text(manifests(version, components))
        published = [_image(name, what, made, Path(folder)) for name in IMAGES]
        written = [Artifact(file.name, _sha256(file)) for file in sorted(made.iterdir())]
        statement = provenance.statement(what, [*written, *published])
        (made / f"sfc-{version}.provenance.json").write_text(json.dumps(statement, indent=2) + "\n")
        lines = [f"{_sha256(file)}  {file.name}\n" for file in sorted(made.iterdir())]
        (made / CHECKSUMS).write_text("".join(lines))
        shutil.rmtree(output, ignore_errors=True)
        made.rename(output)


def manifests(version: str, components: tuple[str, ...]) -> str:
    """deploy/ with these components, as `kubectl apply -f` takes it, for images of this version."""
    with tempfile.TemporaryDirectory() as folder:
        deploy = os.path.relpath(CHECKOUT / "deploy", folder)
        kustomization = {
            "resources": [deploy],
            "components": [f"{deploy}/components/{component}" for component in components],
            "images": [{"name": _reference(name), "newTag": version} for name in IMAGES],
            "labels": [{"pairs": {"app.kubernetes.io/version": version}}],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return run(build.binaries(DEFAULT_KUBERNETES).kubectl, "kustomize", folder)


def _image(name: str, what: provenance.Build, made: Path, work: Path) -> Artifact:
    """Writes an image's archive and bill of materials to `made`; returns what a registry will call the image."""
    reference, layout = _reference(name), work / name
    tagged = f"{reference}:{what.version}"
    builder.export_image(f"{reference}:dev", CHECKOUT / f"deploy/{name}.Dockerfile", CHECKOUT, tagged, layout)
    image.write_archive(layout, made / f"{name}-{what.version}.oci.tar", what.seconds)
    bill = sbom.of_image(layout, reference, what.version, what.seconds)
    (made / f"{name}-{what.version}.cdx.json").write_text(bill)
    return Artifact(tagged, image.digest(layout).removeprefix("sha256:"))


def _build(version: str) -> provenance.Build:
    if not SEMVER.fullmatch(version):
        raise ReleaseError(f"VERSION: {version!r} is no version: give one like 1.2.3 or 1.2.3-rc.1 (semver.org)")
    changed = _git("status", "--porcelain").splitlines()
    if changed and not version.endswith(UNFINISHED):
        raise ReleaseError(
            f"VERSION: {version!r} cannot be made from files that are in no commit, such as {changed[0][3:]!r}: commit"
            f" them, or give a version like {version}{UNFINISHED}"
        )
    lock = CHECKOUT / "requirements.lock"
    read = (
        Artifact("source", _git("rev-parse", "HEAD"), "gitCommit"),
        Artifact(lock.name, _sha256(lock)),
        Artifact(builder.BASE, builder.base_digest()),
    )
    return provenance.Build(version, int(_git("log", "-1", "--format=%ct")), bool(changed), read)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", CHECKOUT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{CHECKOUT}: a release is made from a git checkout: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")


def _reference(name: str) -> str:
    return f"localhost/sfc/{name}"


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
