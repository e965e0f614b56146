"""The bill of materials of an image, in CycloneDX: which Debian and Python packages have files in it.

debsbom reads the records of the Debian packages, cyclonedx-py those of the Python packages. The specification:
https://cyclonedx.org/docs/1.6/json/
"""

import json
import re
import sys
import sysconfig
import venv
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release import image
from testbed.process import run

ARCHITECTURE = "amd64"
DPKG = Path("var/lib/dpkg")
PYTHON_RECORD = re.compile(r"\.dist-info/(METADATA|RECORD|INSTALLER|direct_url\.json|licenses/.+)$")
# status.d holds the records of packages of which only some files are there, as in Google's "distroless" images
DEBIAN_RECORD = re.compile(rf"^(\./)?({DPKG}/(status|status\.d/[^/]+)|(etc|usr/lib)/os-release)$")


def of_image(layout: Path, name: str, version: str, seconds: int) -> str:
    """The bill of the image in an OCI image layout, as JSON.

    `seconds` since 1970 is when it was made. The same packages, name, version and time always give the same bytes.
    ValueError when the result does not fit CycloneDX' schema, TestbedError when a generator fails.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder, "root")
        image.unpack(layout, root, lambda path: bool(PYTHON_RECORD.search(path) or DEBIAN_RECORD.search(path)))
        debian, python = _debian(root, seconds), _python(root, Path(folder, "venv"))
    distribution = debian.metadata.component
    if not distribution:
        raise ValueError(f"debsbom names no distribution for {name}")
    whole = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"{name}:{version}"),
        components=[distribution, *debian.components, *python.components],
        dependencies=[*debian.dependencies, *python.dependencies],
    )
    whole.metadata.timestamp = datetime.fromtimestamp(seconds, UTC)
    whole.metadata.tools.components.update(debian.metadata.tools.components, python.metadata.tools.components)
    whole.metadata.component = Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref=name)
    whole.register_dependency(whole.metadata.component, [distribution, *python.components])
    text = JsonV1Dot6(whole).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the bill of materials of {name} does not fit the schema of CycloneDX 1.6: {fault}")
    return text + "\n"


def _debian(root: Path, seconds: int) -> Bom:
    records = [*(root / DPKG).glob("status"), *sorted((root / DPKG).glob("status.d/*"))]
    whole = "\n".join(file.read_text() for file in records)
    (root / DPKG / "status").write_text(whole)
    (root / DPKG / "arch-native").write_text(ARCHITECTURE)
    (identity, *_) = [*root.glob("usr/lib/os-release"), *root.glob("etc/os-release")]
    (release,) = re.findall(r'^VERSION_ID="?([^"\n]+)', identity.read_text(), re.MULTILINE)
    made = datetime.fromtimestamp(seconds, UTC).isoformat()
    options = [f"--root={root}", "--sbom-type=cdx", "--cdx-schema-version=1.6", f"--timestamp={made}", "--out=-"]
    return _read(_tool("debsbom", "generate", f"--distro-version={release}", *options))


def _python(root: Path, environment: Path) -> Bom:
    """cyclonedx-py asks an interpreter for its packages, so the records get one that has no others."""
    venv.create(environment, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    for record in root.rglob("*.dist-info"):
        record.rename(packages / record.name)
    bom = _read(_tool("cyclonedx-py", "environment", "--no-validate", "--output-reproducible", environment))
    for component in bom.components:
        component.external_references.clear()  # the schema's check of their IRIs takes most of a release's time
    return bom


def _tool(name: str, *arguments: str | Path) -> str:
    return run(Path(sys.executable).with_name(name), *arguments)


def _read(text: str) -> Bom:
    return cast(Bom, Bom.from_json(json.loads(text)))  # type: ignore[attr-defined]
