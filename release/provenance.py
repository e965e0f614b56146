"""Where the files of a release come from: an in-toto statement with SLSA provenance.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://sfc.dev/make-release/v1"
"""Stands for the procedure in CONTRIBUTING.md, Releases. It is a name only; nothing is served there."""
BUILDER = "https://sfc.dev/local-build"
"""Stands for whoever ran `make release`: an unsigned statement proves nothing about them."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something that a build read or wrote; the digest is hexadecimal, by `algorithm`."""

    name: str
    digest: str
    algorithm: str = "sha256"


@dataclass(frozen=True, slots=True)
class Build:
    """What went into a release, besides the machine it was built on."""

    version: str
    seconds: int
    """The commit's time since 1970, used for all files."""
    uncommitted: bool
    """Whether files differed from the commit."""
    read: tuple[Artifact, ...]


def statement(build: Build, written: Iterable[Artifact]) -> dict[str, Any]:
    """The statement about what the build wrote, which does not depend on the time or place of the build."""
    return {
        "_type": STATEMENT,
        "subject": [_described(artifact) for artifact in written],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"version": build.version},
                "internalParameters": {"sourceDateEpoch": build.seconds, "uncommittedChanges": build.uncommitted},
                "resolvedDependencies": [_described(artifact) for artifact in build.read],
            },
            "runDetails": {"builder": {"id": BUILDER}},
        },
    }


def _described(artifact: Artifact) -> Mapping[str, Any]:
    return {"name": artifact.name, "digest": {artifact.algorithm: artifact.digest}}
