"""Kubernetes objects as raw JSON: where they live, and what is read off them again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sfc import names

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of one object, or of the collection when no name is given."""
        root = "/apis/" if "/" in self.api_version else "/api/"
        place = ("namespaces", namespace) if namespace else ()
        return root + "/".join(part for part in (self.api_version, *place, self.plural, name, subresource) if part)

    def object(self, metadata: Object, **content: Any) -> dict[str, Any]:
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, **content}


CHAINS = Resource(names.API_VERSION, names.CHAIN_KIND, names.CHAIN_PLURAL)
CONNECTIONS = Resource(names.API_VERSION, names.CROSS_CONNECTION_KIND, names.CROSS_CONNECTION_PLURAL)
NETWORKS = Resource("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition", "network-attachment-definitions")
PODS = Resource("v1", "Pod", "pods")
EVENTS = Resource("v1", "Event", "events")
SECRETS = Resource("v1", "Secret", "secrets")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
MUTATING = Resource("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
VALIDATING = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
)


OVER = ("Succeeded", "Failed")
"""Phases of a pod that runs nothing any more."""


def name(obj: Object) -> str:
    value: str = obj["metadata"]["name"]
    return value


def namespace(obj: Object) -> str:
    value: str = obj["metadata"]["namespace"]
    return value


def label(obj: Object, key: str) -> str | None:
    return (obj["metadata"].get("labels") or {}).get(key)


def leaving(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def controller_uid(obj: Object) -> str | None:
    """UID of the object's owner that is its controller."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def owned_by(chain: Object, *, controller: bool) -> dict[str, Any]:
    reference = {
        "apiVersion": CHAINS.api_version,
        "kind": CHAINS.kind,
        "name": name(chain),
        "uid": chain["metadata"]["uid"],
    }
    return {**reference, "controller": True} if controller else reference


def condition(obj: Object, kind: str) -> Object | None:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), None)


def timestamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
