"""What a CNI call is answered: the result of an ADD, the supported versions, or an error (CNI specification 1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from controller.node.cni.attachment import Addition
from sfc.chain import Interface

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_VERSION = "1.0.0"
"""Of a configuration without cniVersion, and of every error."""


class Code(IntEnum):
    """Why a call is refused. Numbers below 100 are the specification's."""

    INCOMPATIBLE_VERSION = 1
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIGURATION = 7
    TRY_AGAIN = 11
    INTERFACE_TAKEN = 100
    KERNEL_REFUSED = 101
    NO_SLOT_LEFT = 102
    CHECK_FAILED = 103
    IPAM_FAILED = 104
    NOT_SIGNED = 105
    DRAIN_ID_TAKEN = 106


class CniError(Exception):
    """The call is refused. `code` is a Code, or what an IPAM plugin answered; `message` says what to do."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def output(self) -> dict[str, Any]:
        """The specification's error object."""
        return {
            "cniVersion": DEFAULT_VERSION,
            "code": int(self.code),
            "msg": f"sfc: {self.message}",
            "details": self.details,
        }


def add_result(addition: Addition, host_mac: str, interface: Interface, ipam: Mapping[str, Any]) -> dict[str, Any]:
    """The result of an ADD. `interface` is what was set up, `ipam` the result of the IPAM plugin (empty without)."""
    return {
        "cniVersion": addition.version,
        "interfaces": [
            {"name": addition.attachment.host_name, "mac": host_mac},
            {"name": interface.name, "mac": interface.mac, "sandbox": addition.sandbox},
        ],
        "ips": [{**ip, "interface": 1} for ip in ipam.get("ips") or ()],
        "routes": [{"dst": r.dst, **({"gw": r.gw} if r.gw else {})} for r in interface.routes],
        "dns": ipam.get("dns", {}),
    }


def version_result(asked: object) -> dict[str, Any]:
    """The result of a VERSION; `asked` is the cniVersion of the configuration, which the result repeats."""
    return {"cniVersion": asked, "supportedVersions": list(VERSIONS)}
