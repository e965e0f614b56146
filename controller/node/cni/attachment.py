"""What a CNI call is about, as values: an attachment is what a DEL needs, an addition what an ADD or a CHECK needs.

`reading` makes them from a call.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from controller.node.cni.call import Call
from sfc.chain import Interface
from sfc.source_ports import PortRange
from sfc.statement import Arguments


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod, as the runtime names it in CNI_ARGS."""

    namespace: str
    """Empty, as is the name, when the runtime does not pass it."""
    name: str
    uid: str
    """Empty when the runtime does not pass K8S_POD_UID (containerd before 1.6, CRI-O before 1.20)."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class IpamPlugin:
    """The plugin that gives an attachment its addresses and takes them back."""

    name: str
    """Of its file; one of `reading.IPAM_PLUGINS`."""
    call: Call
    """Our own call, which is passed on to the plugin as it came."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one pod."""

    container_id: str
    interface_name: str
    """In the pod."""
    pod: PodIdentity
    ipam: IpamPlugin | None
    """None without addresses (a transparent function)."""

    @property
    def host_name(self) -> str:
        """Name of the host end: 15 characters, the same at every repetition of the call."""
        digest = hashlib.sha256(f"{self.container_id}/{self.interface_name}".encode()).hexdigest()
        return f"sfc{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Addition:
    """An attachment, and how it is to be made (ADD) or is to be found (CHECK)."""

    attachment: Attachment
    version: str
    """CNI version of the configuration, and so of the result."""
    netns: int
    """Open descriptor of the pod's network namespace."""
    sandbox: str
    """Path of the pod's network namespace, which the result repeats."""
    interface: Interface
    """Its routes are the chain's alone; the IPAM plugin may add others."""
    chain: str
    stage: str
    drain_id: str
    source_ports: PortRange | None
    """The ports that the pod's sockets must keep to; None without such a limit."""
    statement: Arguments
    """What the webhook signed, and the signature, as the call has them: nothing of it is proved by its being here."""
