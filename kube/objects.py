"""Kubernetes objects as raw JSON: their paths in the API, and the fields that everybody reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sfc import names

Object = Mapping[str, Any]
Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-wide kinds."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, and its place in the API."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of one object, or of the collection when no name is given."""
        root = "/apis" if "/" in self.api_version else "/api"
        place = f"namespaces/{namespace}" if namespace else ""
        return "/".join(filter(None, (root, self.api_version, place, self.plural, name, subresource)))

    def object(self, metadata: Object, **content: Any) -> dict[str, Any]:
        """An object of this kind. `content`: its top-level fields, `spec` for example."""
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, **content}

    def reference(self, namespace: str, name: str, uid: str) -> dict[str, Any]:
        """An ObjectReference, as `involvedObject` of an Event has it."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "namespace": namespace,
            "name": name,
            "uid": uid,
        }


CHAINS = Resource(names.API_VERSION, names.CHAIN_KIND, names.CHAIN_PLURAL)
CONNECTIONS = Resource(names.API_VERSION, names.CROSS_CONNECTION_KIND, names.CROSS_CONNECTION_PLURAL)
NETWORKS = Resource("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition", "network-attachment-definitions")
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes")
NAMESPACES = Resource("v1", "Namespace", "namespaces")
EVENTS = Resource("v1", "Event", "events")
SECRETS = Resource("v1", "Secret", "secrets")
TOKEN_REVIEWS = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews")
ACCESS_REVIEWS = Resource("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews")
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
MUTATING = Resource("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
VALIDATING = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
)


OVER = ("Succeeded", "Failed")
"""Phases of a pod whose containers have all ended for good."""


def key(obj: Object) -> Key:
    """Raises KeyError or TypeError for JSON that is not an object with a name."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def name(obj: Object) -> str:
    """`metadata.name`. Raises KeyError."""
    value: str = obj["metadata"]["name"]
    return value


def namespace(obj: Object) -> str:
    """`metadata.namespace`. Raises KeyError for an object of a cluster-wide kind."""
    value: str = obj["metadata"]["namespace"]
    return value


def label(obj: Object, key: str) -> str | None:
    """None for a label that the object does not have."""
    return (obj["metadata"].get("labels") or {}).get(key)


def leaving(obj: Object) -> bool:
    """Whether its deletion was requested; finalizers or a grace period may keep it for a while."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def controller_uid(obj: Object) -> str | None:
    """UID of the owner that is the object's controller (`controller: true`)."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def owned_by(chain: Object, *, controller: bool) -> dict[str, Any]:
    """An element of `metadata.ownerReferences`: garbage collection deletes the object with the chain."""
    reference = {
        "apiVersion": CHAINS.api_version,
        "kind": CHAINS.kind,
        "name": name(chain),
        "uid": chain["metadata"]["uid"],
    }
    return {**reference, "controller": True} if controller else reference


def condition(obj: Object, kind: str) -> Object | None:
    """The element of `status.conditions` whose `type` is `kind`."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), None)


def timestamp(moment: datetime) -> str:
    """As `metav1.Time` is written: RFC 3339, UTC, seconds. `moment` has a time zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(moment: datetime) -> str:
    """As `metav1.MicroTime` is written (Leases): RFC 3339, UTC, microseconds. `moment` has a time zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
