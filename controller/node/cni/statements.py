"""Whether an addition is what the webhook signed, for this pod. Nobody else is given a link.

The public keys are files in one folder, one file a key, named by its id. The kubelet fills the folder from a ConfigMap
and keeps it current, so a key counts as soon as it is there, and no longer than it is there.
"""

from __future__ import annotations

import json
from pathlib import Path

from certs import signing
from controller.node.cni.answer import CniError, Code
from controller.node.cni.attachment import Addition
from sfc import names
from sfc.statement import SIGNATURE, difference, message

LEAVE_IT = (
    f"leave annotation {names.NETWORKS_ANNOTATION} to the webhook, and delete the pod; its workload makes another"
)
CALL_FIELDS = {
    "namespace": "K8S_POD_NAMESPACE",
    "interface": "CNI_IFNAME",
    "addresses": "runtimeConfig.ips",
    "mac": "runtimeConfig.mac",
}
"""Where a call has what a statement has under this name."""


class Statements:
    """Checks statements against the public keys in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, addition: Addition) -> None:
        """Raises CniError (NOT_SIGNED) unless the webhook signed this very addition."""
        pod, signature = addition.attachment.pod, str(addition.statement.get(SIGNATURE, ""))
        where = f"pod {pod}, interface {addition.interface.name!r}"
        if not signing.verify(self._public_key(signature, where), message(addition.statement), signature):
            raise CniError(
                Code.NOT_SIGNED, f"{where}: args.cni is not what the webhook signed: somebody changed it; {LEAVE_IT}"
            )
        if differs := difference(
            addition.statement,
            namespace=pod.namespace,
            interface=addition.interface.name,
            addresses=addition.interface.addresses,
            mac=addition.interface.mac,
        ):
            field, signed, asked = differs
            raise CniError(
                Code.NOT_SIGNED,
                f"{where}: {CALL_FIELDS[field]} is {json.dumps(asked)}, but the webhook signed {field} "
                f"{json.dumps(signed)}: a signature is for one interface of one pod; label the pod's own workload with "
                f"{names.CHAIN_LABEL} and {names.STAGE_LABEL}, {LEAVE_IT}",
            )

    def _public_key(self, signature: str, where: str) -> bytes:
        key_id = signing.signer_of(signature)
        if key_id is None:
            raise CniError(
                Code.NOT_SIGNED, f"{where}: args.cni.{SIGNATURE} is {signature[:128]!r}, not a signature; {LEAVE_IT}"
            )
        try:
            return (self._folder / key_id).read_bytes()
        except OSError as error:
            raise CniError(
                Code.NOT_SIGNED,
                f"{where}: the webhook signed with key {key_id}, which this node does not accept (ConfigMap "
                f"{names.SYSTEM_NAMESPACE}/{names.STATEMENT_KEYS} does not have it, or was changed a moment ago): the "
                "pod is older than the keys; delete it, and its workload makes another",
                str(error),
            ) from error
