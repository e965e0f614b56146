"""A chain as a watch keeps it: what the API server has stored, not parsed yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kube import lean
from kube.objects import Object


@dataclass(frozen=True, slots=True)
class StoredChain:
    """A ServiceFunctionChain without its status. Equal ones are the same version of the spec."""

    namespace: str
    name: str
    uid: str
    created: str
    """As the API server writes it."""
    spec: bytes
    """As JSON; a few hundred bytes to 64 KiB, a fifth of what the value takes in memory."""

    @property
    def path(self) -> str:
        """namespace/name"""
        return f"{self.namespace}/{self.name}"

    def obj(self) -> dict[str, Any]:
        """The object, for `sfc.validation.checks.parse`."""
        metadata = {
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "creationTimestamp": self.created,
        }
        return {"metadata": metadata, "spec": lean.decoded(self.spec)}


def stored_chain(obj: Object, _: object = None) -> StoredChain:
    """Of an object from a watch with the shape `kube.lean.CHAIN`. Raises KeyError for one without a name."""
    metadata = obj["metadata"]
    return StoredChain(
        metadata.get("namespace", ""),
        metadata["name"],
        metadata.get("uid", ""),
        metadata.get("creationTimestamp") or "",
        lean.written(obj.get("spec")),
    )
