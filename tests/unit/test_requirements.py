"""The lock files fit what they lock, and nothing is installed past them."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
TOP_LEVEL = sorted(
    file.relative_to(CHECKOUT)
    for place in (".", "testbed/pins/*")
    for file in CHECKOUT.glob(f"{place}/requirements*.txt")
)
INSTALLED = ("requirements.txt", "requirements-dev.txt")
"""Those whose packages `make deps` puts into .venv, so that what each of them needs is known here."""


@dataclass(frozen=True)
class Locked:
    """One package of a lock file."""

    version: str
    hashes: frozenset[str]


def wanted(file: Path) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (CHECKOUT / file).read_text().splitlines()]
    included = [Path(line.removeprefix("-r ")) for line in lines if line.startswith("-r ")]
    own = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return [*own, *(requirement for other in included for requirement in wanted(file.parent / other))]


def locked(file: Path) -> dict[str, Locked]:
    text = re.sub(r"#.*", "", (CHECKOUT / file).with_suffix(".lock").read_text()).replace("\\\n", " ")
    found = {}
    for entry in filter(str.strip, text.splitlines()):
        requirement, *hashes = entry.split("--hash=")
        name, version = requirement.strip().split("==")
        found[canonicalize_name(name)] = Locked(version, frozenset(map(str.strip, hashes)))
    return found


def needed(requirements: Iterable[Requirement]) -> set[str]:
    """The names of all packages that these need in turn, from the metadata of the installed ones."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement.name, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    while waiting:
        name, extra = waiting.pop()
        found.add(canonicalize_name(name))
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, wanted_extra) for wanted_extra in ("", *requirement.extras)]
    return found


@pytest.mark.parametrize("file", TOP_LEVEL, ids=str)
def test_what_people_edit_is_pinned_and_locked_at_that_version(file: Path) -> None:
    lock = locked(file)

    for requirement in wanted(file):
        (pin,) = requirement.specifier

        assert pin.operator == "==", f"{file}: {requirement} is not pinned"
        found = lock.get(canonicalize_name(requirement.name))
        assert found and found.version == pin.version, f"{file}: {requirement} is not what is locked: run `make lock`"


@pytest.mark.parametrize("file", TOP_LEVEL, ids=str)
def test_every_locked_package_has_hashes_and_comes_from_no_place_in_particular(file: Path) -> None:
    lock = locked(file)

    assert lock
    assert all(package.hashes for package in lock.values())
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for package in lock.values() for digest in package.hashes)
    assert "://" not in (CHECKOUT / file).with_suffix(".lock").read_text(), "the lock file names a package index"


@pytest.mark.parametrize("file", INSTALLED)
def test_the_lock_has_what_is_needed_and_nothing_else(file: str) -> None:
    requirements = wanted(Path(file))

    assert set(locked(Path(file))) == needed(requirements), "run `make lock`"


def test_images_and_tests_run_the_same_packages() -> None:
    images, tests = (locked(Path(file)) for file in INSTALLED)

    assert images.items() <= tests.items()


def test_nothing_is_installed_past_a_lock() -> None:
    listed = subprocess.run(["git", "-C", CHECKOUT, "ls-files"], check=True, capture_output=True, text=True).stdout
    scripts = [
        CHECKOUT / name for name in listed.splitlines() if re.search(r"Dockerfile$|^testbed/[^.]+$|^Makefile$", name)
    ]

    installs = [line for file in scripts for line in file.read_text().splitlines() if "pip install" in line]

    assert len(installs) >= 4
    assert [line for line in installs if "--require-hashes --only-binary=:all: -r" not in line] == []


def test_every_image_starts_from_the_base_that_the_builder_may_name() -> None:
    for dockerfile in (CHECKOUT / "deploy").glob("*.Dockerfile"):
        text = dockerfile.read_text()
        stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
        bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))

        assert bases - stages <= {"${BASE}", "scratch"}, dockerfile.name
