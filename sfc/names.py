"""Every name that more than one component must spell alike.

They are API: one component writes a label, annotation, condition or path, and another component or a user reads it.
Change the glossary (docs/glossary.md) first, then this file.
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
"""Annotation with the pod's drain id; see sfc.drain_id."""

WIRED_CONDITION = "sfc.dev/wired"
"""Pod condition and readiness gate: the replica is in the targets of all its cross-connections, and traffic passes."""

HOP_OPEN = "HopOpen"
"""Reason of that condition, and of a chain's: replicas are in their targets, but none serves on the other side of a hop
on their node."""

REPLICA_NUMBER = "sfc.dev/replica-number"
"""Annotation with a number that only this replica of its stage has, such as 3; see sfc.source_ports."""
SOURCE_PORTS = "sfc.dev/source-ports"
"""Annotation with the source ports that only this replica uses, such as 1024-5055; see sfc.source_ports. Also the name
of the scheduling gate that keeps the pod unscheduled until it has them."""
READINESS_GATE_ANNOTATION = "sfc.dev/readiness-gate"
"""Annotation of a pod: with the value `disabled` the pod gets no readiness gate and may be Ready before it is wired."""

NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"
"""Annotation of a pod that Multus reads; see sfc.annotation."""

NETWORK_NAME = "sfc"
"""Name of the NetworkAttachmentDefinition in each namespace that has a chain."""

CNI_TYPE = "sfc"
"""File name of the CNI plugin on the node, and `type` in its configuration."""

SYSTEM_NAMESPACE = "sfc-system"

HOOK_HOST = "127.0.0.1"
HOOK_PORT = 9810
HOOK_PATH = "/drain/"
"""The PreStop hook is GET http://127.0.0.1:9810/drain/<drain id>; the node's pods
can make the kubelet call it, too, so a call proves nothing: see controller/node/hooks/server.py."""

RELAY = 19810
"""User and group of the relay, the process that holds PreStop hooks. Nobody else has this number on a node."""

HOOK_SOCKET = "/run/sfc/hooks/agent.sock"
"""Socket of the leading node agent. The relay reports hooks here. It sees no other file of this folder's parent."""

PORT_SOCKET = "/run/sfc/hooks/port.sock"
"""Socket of the leading node agent. The relay gets HOOK_PORT here."""

ASKED_AT_HEADER = "X-Sfc-Asked-At"
"""Header with the time at which that process received the hook: seconds on the node's monotonic clock."""

DOOR_SECRET = "sfc-webhook-door"  # noqa: S105 - the name of a Secret, not its value
DOOR_FIELD = "paths"
"""The secret parts of the webhook's URLs that are right, in that Secret of the system namespace."""

STATEMENT_KEY_SECRET = "sfc-statement-key"  # noqa: S105 - the name of a Secret, not its value
STATEMENT_KEY_FIELD = "key"
"""The webhook's private key for statements (sfc.statement), in that Secret of the system namespace."""

STATEMENT_KEYS = "sfc-statement-keys"
"""Name of the ConfigMap with the public keys that node agents accept, by their ids (certs.signing)."""

HASH_KEY_SECRET = "sfc-hash-key"  # noqa: S105 - the name of a Secret, not its value
HASH_KEY_FIELD = "key"
"""The key of the hashes of the node agents' program (bpf/hash.h), in that Secret of the system namespace."""
HASH_KEY_BYTES = 32

METRICS_PORT = 9811
"""TCP port of each component for /metrics, over TLS, with a token."""

METRICS_CERTIFICATE = "/etc/sfc/metrics-tls"
"""Where each component finds the certificate for it: the files of the Secret sfc-metrics-tls."""

TUNNEL_PORT = 5789
"""UDP port of the tunnel between node agents' data paths, on every node."""
TELLERS = 2
"""So many nodes report one that is silent for all, in the status of a CrossConnection."""

HEALTH_HOST = "127.0.0.1"
HEALTH_PORT = 9809
"""The node agent's /healthz and /readyz, which only its own node can reach."""
RELAY_HEALTH_PORT = 9808
"""The relay's, likewise."""

ENTRY_MANAGER = "sfc-node-"
"""Field manager of a node agent's entries in `status.nodes` of CrossConnections; the node's name follows."""

CNI_SOCKET = "/run/sfc/cni.sock"
"""Socket of the leading node agent, to which the CNI plugin hands its calls."""

DEFAULT_DRAIN_DEADLINE_SECONDS = 30
