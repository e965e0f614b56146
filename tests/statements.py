"""Calls of the CNI plugin as the webhook, Multus and the runtime make them together: with a signed statement."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from certs.signing import Signer
from sfc.statement import SIGNATURE, message

SIGNER = Signer(bytes(range(32)))
"""The webhook's key in tests."""


def accepted(folder: Path, *signers: Signer) -> Path:
    """Fills the folder with the signers' public keys, as the kubelet does for node agents; returns it."""
    folder.mkdir(exist_ok=True)
    for signer in signers or (SIGNER,):
        (folder / signer.key_id).write_bytes(signer.public)
    return folder


def signed(config: Mapping[str, Any], namespace: str, interface: str, signer: Signer = SIGNER) -> dict[str, Any]:
    """The network configuration with the statement that fits it, in a pod of this namespace."""
    result = deepcopy(dict(config))
    runtime, arguments = result["runtimeConfig"], result["args"]["cni"]
    arguments |= {"namespace": namespace, "interface": interface, "mac": str(runtime.get("mac", "")).lower()}
    if runtime.get("ips"):
        arguments["addresses"] = runtime["ips"]
    arguments[SIGNATURE] = signer.sign(message(arguments))
    return result
