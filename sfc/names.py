"""Every name that more than one piece of the system must spell alike.

They are API: a label, annotation, condition or path here is written by one component and read by another,
or by a user. Change the glossary (docs/glossary.md) first, then this file.
"""

GROUP = "sfc.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

CHAIN_KIND = "ServiceFunctionChain"
CHAIN_PLURAL = "servicefunctionchains"
CROSS_CONNECTION_KIND = "CrossConnection"
CROSS_CONNECTION_PLURAL = "crossconnections"

CHAIN_LABEL = "sfc.dev/chain"
STAGE_LABEL = "sfc.dev/stage"

DRAIN_ID_ANNOTATION = "sfc.dev/drain-id"
"""Names one pod towards the node agent's PreStop endpoint. Made at Pod CREATE, when the UID does not exist yet."""

WIRED_CONDITION = "sfc.dev/wired"
"""Pod condition and readiness gate: every cross-connection of the replica holds it."""

SOURCE_PORTS = "sfc.dev/source-ports"
"""Annotation with the source ports that are this replica's alone, as 1024-5055; and the scheduling gate that keeps a
pod from its node until it has them. See sfc.source_ports."""
READINESS_GATE_ANNOTATION = "sfc.dev/readiness-gate"
"""Of a pod: `disabled` leaves the gate out, so that the pod may be Ready before it is wired."""

NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"

NETWORK_NAME = "sfc"
"""Name of the NetworkAttachmentDefinition in each namespace that has a chain."""

CNI_TYPE = "sfc"
"""File name of the CNI plugin on the node, and `type` in its configuration."""

SYSTEM_NAMESPACE = "sfc-system"

HOOK_HOST = "127.0.0.1"
HOOK_PORT = 9810
HOOK_PATH = "/drain/"
"""The PreStop hook is GET http://127.0.0.1:9810/drain/<drain id>; only the kubelet of the node can reach it."""

HOOK_SOCKET = "/run/sfc/hooks.sock"
"""Where the leading node agent hears of hooks, from the process that holds them."""

ASKED_AT_HEADER = "X-Sfc-Asked-At"
"""When that process got the hook: seconds on the node's monotonic clock."""

SIGNATURE_HEADER = "X-Sfc-Signature"
"""Hex HMAC-SHA256 of the drain id under the cluster's drain key; see sfc.drain_id."""

DRAIN_KEY_SECRET = "sfc-drain-key"  # noqa: S105 - the name of a Secret, not its value
DRAIN_KEY_FIELD = "key"

METRICS_PORT = 9811
"""Metrics, /healthz and /readyz of the node agent."""

CNI_SOCKET = "/run/sfc/cni.sock"

DEFAULT_DRAIN_DEADLINE_SECONDS = 30
