"""The statement: what the webhook says, and signs, about one interface of one replica.

It is the `cni-args` of the interface's element in the Multus annotation, so Multus hands it to the CNI plugin, and the
plugin to the node agent. Anybody who may write pods can write such an annotation, also after admission. So the agent
makes a link for nobody without a signature of the webhook, and believes the signed fields only.

The source ports are not signed: the cluster controller writes them after admission. They bind nothing but the sockets
of the pod itself, so whoever forges them harms replicas of its own stage only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sfc import ip
from sfc.chain import Chain, Interface, Stage
from sfc.mac import octets

SIGNATURE = "signature"
SOURCE_PORTS = "sourcePorts"
"""Name of the argument with a replica's source ports."""
UNSIGNED = (SIGNATURE, SOURCE_PORTS)
"""All arguments but these are signed, so that a later version can add some."""

Arguments = Mapping[str, Any]
"""The `cni-args` of one element."""
Sign = Callable[[bytes], str]
"""Signs a message; returns the signature as the argument has it, with the id of its key (certs.signing)."""

_PURPOSE = b"sfc statement 1\n"
"""The signature of a statement fits nothing else that might once be signed with the same key."""


def statement(chain: Chain, stage: Stage, interface: Interface, drain_id: str, sign: Sign) -> dict[str, Any]:
    """The signed arguments for an interface of a new replica of the stage."""
    arguments: dict[str, Any] = {
        "namespace": chain.namespace,
        "chain": chain.name,
        "chainUid": chain.uid,
        "stage": stage.name,
        "interface": interface.name,
        "mac": interface.mac,
        "drainId": drain_id,
    }
    if interface.addresses:
        arguments["addresses"] = list(interface.addresses)
    if interface.mtu is not None:
        arguments["mtu"] = interface.mtu
    if interface.routes:
        arguments["routes"] = [{"dst": r.dst} | ({"gw": r.gw} if r.gw else {}) for r in interface.routes]
    return arguments | {SIGNATURE: sign(message(arguments))}


def message(arguments: Arguments) -> bytes:
    """What is signed: one line that says what it is, then the arguments as JSON without spaces, sorted by name."""
    signed = {name: value for name, value in arguments.items() if name not in UNSIGNED}
    return _PURPOSE + json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()


def difference(
    arguments: Arguments, *, namespace: str, interface: str, addresses: Sequence[str], mac: str
) -> tuple[str, object, object] | None:
    """The first field that is not as it was signed: its name, what was signed, what was asked for. None without one.

    Values are compared, not how they are written: Multus lies in between.
    """
    asked = {"namespace": namespace, "interface": interface, "addresses": list(addresses), "mac": mac}
    signed = {"addresses": [], **arguments}
    return next(
        (
            (name, signed.get(name), value)
            for name, value in asked.items()
            if _meant(name, signed.get(name)) != _meant(name, value)
        ),
        None,
    )


def _meant(name: str, value: object) -> object:
    """What a field says, however it is written; the value itself for what cannot be read."""
    if name == "addresses" and isinstance(value, list):
        with suppress(ValueError):
            return {ip.interface(str(address)) for address in value}
    return octets(value) or value if name == "mac" else value
