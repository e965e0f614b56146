"""What `make release` writes. It needs root, but no cluster."""

import hashlib
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release.__main__ import CHECKSUMS, IMAGES
from tests.unit.test_requirements import locked

CHECKOUT = Path(__file__).parents[2]
VERSION = "0.0.1-rc.1-dev"
"""A version that may be made from a checkout with changes."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "dist"
    done = release(VERSION, folder)
    assert done.returncode == 0, done.stderr
    return folder


def release(version: str, folder: Path, checkout: Path = CHECKOUT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "release", version, f"--output={folder}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def bill(dist: Path, image: str) -> Any:
    return json.loads((dist / f"{image}-{VERSION}.cdx.json").read_text())


def provenance(dist: Path) -> Any:
    return json.loads((dist / f"sfc-{VERSION}.provenance.json").read_text())


def test_a_second_release_of_the_same_commit_has_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    done = release(VERSION, tmp_path / "dist")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dist" / CHECKSUMS).read_text() == (dist / CHECKSUMS).read_text()


def test_checksums_name_every_file(dist: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", CHECKSUMS], cwd=dist, capture_output=True, check=False
    )

    named = {line.split("  ")[1] for line in (dist / CHECKSUMS).read_text().splitlines()}
    assert checked.returncode == 0
    assert named == {file.name for file in dist.iterdir()} - {CHECKSUMS}


@pytest.mark.parametrize("name", ["sfc", "sfc-with-cert-manager"])
def test_manifests_start_the_images_of_this_release(dist: Path, name: str) -> None:
    objects = list(yaml.safe_load_all((dist / f"{name}-{VERSION}.yaml").read_text()))

    specs = [o["spec"]["template"]["spec"] for o in objects if "template" in o.get("spec", {})]
    started = {c["image"] for spec in specs for c in [*spec.get("initContainers", ()), *spec["containers"]]}
    assert started == {f"localhost/sfc/{image}:{VERSION}" for image in IMAGES}
    assert {o["metadata"]["labels"]["app.kubernetes.io/version"] for o in objects} == {VERSION}
    assert any(o["kind"] == "Certificate" for o in objects) == (name == "sfc-with-cert-manager")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_comes_as_an_archive_with_the_digest_that_a_registry_will_show(dist: Path, image: str) -> None:
    with tarfile.open(dist / f"{image}-{VERSION}.oci.tar") as tar:
        contents = {m.name: tar.extractfile(m) for m in tar if m.isfile()}
        blobs = {name: file.read() for name, file in contents.items() if file}

    (manifest,) = json.loads(blobs["index.json"])["manifests"]
    published = {subject["name"]: subject["digest"]["sha256"] for subject in provenance(dist)["subject"]}
    digest = published[f"localhost/sfc/{image}:{VERSION}"]
    assert manifest["digest"] == f"sha256:{digest}"
    assert manifest["annotations"]["org.opencontainers.image.ref.name"] == f"localhost/sfc/{image}:{VERSION}"
    assert hashlib.sha256(blobs[f"blobs/sha256/{digest}"]).hexdigest() == digest


@pytest.mark.parametrize("image", IMAGES)
def test_a_bill_of_materials_has_what_the_image_runs_on(dist: Path, image: str) -> None:
    found = bill(dist, image)
    kinds = Counter(c["purl"].partition("/")[0] for c in found["components"] if "purl" in c)
    python = {
        c["name"].lower().replace("_", "-"): c["version"]
        for c in found["components"]
        if c.get("purl", "")[:8] == "pkg:pypi"
    }

    assert found["metadata"]["component"]["name"] == f"localhost/sfc/{image}"
    assert found["metadata"]["component"]["version"] == VERSION
    assert (
        python.items() >= {name: package.version for name, package in locked(Path("requirements.txt")).items()}.items()
    )
    assert kinds["pkg:deb"] > 30
    assert {"libc6", "libssl3", "zlib1g"} <= {c["name"] for c in found["components"]}


def test_the_agents_bill_has_the_compiler_the_headers_and_what_its_plugin_is_linked_with(dist: Path) -> None:
    names = {component["name"] for component in bill(dist, "controller")["components"]}

    assert {"python3-bpfcc", "libc6-dev"} <= names
    assert any(name.startswith("linux-headers-") for name in names)


def test_a_bill_of_materials_fits_the_schema_of_cyclonedx(dist: Path) -> None:
    """`make release` looks at each one; this test would notice if it did not."""
    text = (dist / f"webhook-{VERSION}.cdx.json").read_text()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_provenance_names_every_file_the_commit_and_what_was_read(dist: Path) -> None:
    found = provenance(dist)
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in found["subject"]}
    definition = found["predicate"]["buildDefinition"]
    read = {dependency["name"]: dependency["digest"] for dependency in definition["resolvedDependencies"]}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    described = {
        f.name: sha256(f) for f in dist.iterdir() if f.name not in (CHECKSUMS, f"sfc-{VERSION}.provenance.json")
    }

    assert (found["_type"], found["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert described.items() <= subjects.items()
    assert set(subjects) - set(described) == {f"localhost/sfc/{image}:{VERSION}" for image in IMAGES}
    assert definition["externalParameters"] == {"version": VERSION}
    assert definition["buildType"].startswith("https://")
    assert read["source"] == {"gitCommit": commit.stdout.strip()}
    assert read["requirements.lock"] == {"sha256": sha256(CHECKOUT / "requirements.lock")}
    assert len(read["docker.io/library/debian:bookworm-slim"]["sha256"]) == 64
    assert found["predicate"]["runDetails"]["builder"]["id"].startswith("https://")


def test_nothing_in_a_release_tells_where_it_was_made(dist: Path) -> None:
    texts = {file.name: file.read_text() for file in dist.iterdir() if file.suffix in (".json", ".yaml")}

    assert len(texts) == len(IMAGES) + 3
    assert [name for name, text in texts.items() if str(CHECKOUT) in text] == []
    assert [name for name, text in texts.items() if name.endswith(".json") and "/tmp/" in text] == []


@pytest.mark.parametrize("version", ["1.2", "v1.2.3", "1.2.3+build", ""])
def test_a_version_that_is_none_is_refused(tmp_path: Path, version: str) -> None:
    done = release(version, tmp_path / "dist")

    assert done.returncode == 1
    assert "give one like 1.2.3" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_in_no_commit_are_refused(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", CHECKOUT, checkout], check=True)
    (checkout / "forgotten.py").touch()

    done = release("1.2.3", tmp_path / "dist", checkout)

    assert done.returncode == 1
    assert "'forgotten.py': commit them, or give a version like 1.2.3-dev" in done.stderr
    assert not (tmp_path / "dist").exists()
