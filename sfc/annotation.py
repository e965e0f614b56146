"""The Multus annotation `k8s.v1.cni.cncf.io/networks`: reading both of its syntaxes, writing JSON, adding our elements.

The syntaxes are those of the Network Plumbing Working Group's specification (v1.3, 4.1.2): a comma-separated list of
`[namespace/]name[@interface]`, or a JSON list of objects. One element that Multus cannot read leaves the pod in
ContainerCreating, so faults are found here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sfc import names
from sfc.chain import Chain, Interface, Stage
from sfc.source_ports import PortRange

Element = dict[str, Any]

SOURCE_PORTS = "sourcePorts"
"""The CNI argument with a replica's source ports."""
NOT_YET = ""
"""Its value until the cluster controller has given the replica a slice; the CNI plugin refuses it."""

_ITEM = re.compile(r"(?:(?P<namespace>[a-z0-9.-]+)/)?(?P<name>[a-z0-9.-]+)(?:@(?P<interface>[^@/\s]+))?")


class AnnotationError(Exception):
    """The pod's own annotation cannot be read, or cannot be combined with ours. The message says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(f"annotation {names.NETWORKS_ANNOTATION}: {message}")


def ours(chain: Chain, stage: Stage, drain_id: str) -> list[Element]:
    """What a replica of the stage asks Multus for, in the order of the stage's interfaces."""
    return [_element(chain, stage, interface, drain_id) for interface in stage.interfaces]


def read(text: object) -> list[Element]:
    """The elements of an annotation, none where there is no annotation. Raises AnnotationError."""
    if text is None:
        return []
    if not isinstance(text, str):
        raise AnnotationError("must be a string")
    if not text.strip():
        return []
    if any(c in text for c in '[{"'):  # the way Multus decides
        return _from_json(text)
    return [_from_item(item.strip()) for item in text.split(",")]


def merge(text: object, mine: Sequence[Element], namespace: str) -> str:
    """The annotation with our elements: the pod's own first and unchanged, then ours instead of older ones of ours.

    Text that asks for the same already is returned as it is. Raises AnnotationError.
    """
    present = read(text)
    own = [element for element in present if not _is_ours(element, namespace)]
    _refuse_same_interface(own, mine)
    if isinstance(text, str) and [e for e in present if _is_ours(e, namespace)] == list(mine):
        return text
    return json.dumps([*own, *mine], separators=(",", ":"))


def with_source_ports(text: object, namespace: str, ports: PortRange | None) -> str:
    """The annotation with the ports that a replica was given, for each of our interfaces that waits for them; None for
    a replica that needs none after all. Raises AnnotationError."""
    elements = [_with_ports(e, ports) if _is_ours(e, namespace) else e for e in read(text)]
    return json.dumps(elements, separators=(",", ":"))


def _with_ports(element: Element, ports: PortRange | None) -> Element:
    arguments = element.get("cni-args")
    if not isinstance(arguments, dict) or SOURCE_PORTS not in arguments:
        return element
    others = {key: value for key, value in arguments.items() if key != SOURCE_PORTS}
    return {**element, "cni-args": others | ({SOURCE_PORTS: str(ports)} if ports else {})}


def _element(chain: Chain, stage: Stage, interface: Interface, drain_id: str) -> Element:
    arguments: Element = {"chain": chain.name, "stage": stage.name, "drainId": drain_id}
    if interface.mtu is not None:
        arguments["mtu"] = interface.mtu
    if interface.routes:
        arguments["routes"] = [{"dst": r.dst} | ({"gw": r.gw} if r.gw else {}) for r in interface.routes]
    if interface.slices:
        arguments[SOURCE_PORTS] = NOT_YET
    ips = {"ips": list(interface.addresses)} if interface.addresses else {}
    return {
        "name": names.NETWORK_NAME,
        "namespace": chain.namespace,
        "interface": interface.name,
        **ips,
        "mac": interface.mac,
        "cni-args": arguments,
    }


def _from_json(text: str) -> list[Element]:
    try:
        elements = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"is not JSON ({error}); correct it, Multus could not read it either") from error
    elements = elements if isinstance(elements, list) else [elements]
    for i, element in enumerate(elements):
        if not isinstance(element, dict) or not isinstance(element.get("name"), str):
            raise AnnotationError(f'element {i} must be an object with a name, as {{"name": "other-network"}}')
    return elements


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _from_item(item: str) -> Element:
    match = _ITEM.fullmatch(item)
    if not match:
        raise AnnotationError(f"{json.dumps(item[:80])} is not [namespace/]name[@interface]; correct it")
    return {key: value for key, value in match.groupdict().items() if value is not None}


def _is_ours(element: Element, namespace: str) -> bool:
    return element["name"] == names.NETWORK_NAME and element.get("namespace") in (None, "", namespace)


def _refuse_same_interface(own: Iterable[Element], mine: Sequence[Element]) -> None:
    wanted = {element["interface"] for element in mine}
    for i, element in enumerate(own):
        interface = element.get("interface") or f"net{i + 1}"  # Multus' own choice where none is named
        if isinstance(interface, str) and interface in wanted:
            raise AnnotationError(
                f"network {json.dumps(element['name'])} takes the interface name {json.dumps(interface)}, which the "
                "chain's stage has too; give the network another one (@interface), or rename the stage's"
            )
