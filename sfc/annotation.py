"""The Multus annotation `k8s.v1.cni.cncf.io/networks`: reads both of its syntaxes, adds our elements, writes JSON.

The Network Plumbing Working Group's specification (v1.3, 4.1.2) defines the syntaxes: a comma-separated list of
`[namespace/]name[@interface]`, or a JSON list of objects. A single element that Multus cannot read leaves the pod in
ContainerCreating, so this module finds such faults at admission.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sfc import mac, names, strict_json
from sfc.chain import Chain, Interface, Stage
from sfc.source_ports import PortRange
from sfc.statement import SIGNATURE, SOURCE_PORTS, Sign, statement
from sfc.validation.problem import shown

Element = dict[str, Any]

NOT_YET = ""
"""Value of the argument SOURCE_PORTS until the cluster controller has given the replica a slice. The CNI plugin refuses
it."""

MAX_LENGTH = 256 << 10
"""Characters. The API server allows 256 KiB for all annotations of an object together, and checks that after us."""

MOST_READ = 64 << 10
"""Characters that are read at every change of a pod; the largest stage makes 40 KiB of them."""
MOST_COMMAS = 1024
"""In such an annotation; the largest stage makes 700."""

FIELDS: dict[str, tuple[type, str]] = {
    "namespace": (str, "a string"),
    "ips": (list, "a list of addresses"),
    "mac": (str, "a string"),
    "infiniband-guid": (str, "a string"),
    "interface": (str, "a string"),
    "interfaceRequest": (str, "a string"),
    "portMappings": (list, "a list"),
    "bandwidth": (dict, "an object"),
    "deviceID": (str, "a string"),
    "cni-args": (dict, "an object"),
    "default-route": (list, "a list of addresses"),
}
"""Optional fields of a JSON element: the type that Multus decodes, and its name in messages. Multus ignores others."""

_ADMITTED = {"drainId", SIGNATURE}
"""Arguments that admission gives. Versions before the signature gave the drain id alone."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_INTERFACE = re.compile(r"[^\s/]{1,15}")


class AnnotationError(Exception):
    """The pod's own annotation cannot be read, or conflicts with ours. The message says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(f"annotation {names.NETWORKS_ANNOTATION}: {message}")


def ours(chain: Chain, stage: Stage, drain_id: str, sign: Sign) -> list[Element]:
    """The elements that a replica of the stage needs, in the order of the stage's interfaces, each with its signed
    statement."""
    return [_element(chain, stage, interface, drain_id, sign) for interface in stage.interfaces]


def read(text: object) -> list[Element]:
    """The elements of an annotation; empty for None or blank text. Raises AnnotationError."""
    if text is None:
        return []
    if not isinstance(text, str):
        raise AnnotationError("must be a string")
    if len(text) > MAX_LENGTH:
        raise AnnotationError(f"has {len(text)} characters, the API server allows {MAX_LENGTH}; shorten it")
    if not text.strip():
        return []
    if any(c in text for c in '[{"'):  # the way Multus decides
        return _from_json(text)
    return [_from_item(item.strip()) for item in text.split(",")]


def interfaces(text: object, namespace: str) -> frozenset[str]:
    """Names of the interfaces that our elements in a pod's annotation ask for. Raises AnnotationError.

    `namespace` is the pod's: our network is an element named `sfc` without a namespace, or with this one. Node agents
    read this at every change of a pod. So an annotation beyond MOST_READ or MOST_COMMAS, which only its owner can have
    made so long after admission, is not read: then nobody sees that one of the pod's interfaces is missing.
    """
    if isinstance(text, str) and (len(text) > MOST_READ or text.count(",") > MOST_COMMAS):
        return frozenset()
    return frozenset(str(element.get("interface")) for element in read(text) if _is_ours(element, namespace))


def merge(text: object, mine: Sequence[Element], namespace: str) -> str:
    """The annotation with our elements: first the pod's own, unchanged, then `mine` in place of older ones of ours.

    An annotation that already has exactly our elements is returned as it is. Raises AnnotationError, also when one of
    the pod's own elements takes the name of an interface of ours.
    """
    present = read(text)
    own = [element for element in present if not _is_ours(element, namespace)]
    complete = [e for e in present if _is_ours(e, namespace)] == list(mine)
    merged = present if complete else [*own, *mine]
    _refuse_same_interface(merged, mine)
    return text if complete and isinstance(text, str) else json.dumps(merged, separators=(",", ":"))


def without_ours(text: object, namespace: str) -> object:
    """The annotation without the elements that admission added; None when it had no others. Raises AnnotationError."""
    present = read(text)
    own = [e for e in present if not (_is_ours(e, namespace) and _ADMITTED & (e.get("cni-args") or {}).keys())]
    if len(own) == len(present):
        return text
    return json.dumps(own, separators=(",", ":")) if own else None


def with_source_ports(text: object, namespace: str, ports: PortRange | None) -> str:
    """The annotation with a replica's source ports in each of our elements that has the argument `sourcePorts`.

    None as `ports` removes the argument, for a replica that needs no slice any more. Raises AnnotationError.
    """
    elements = [_with_ports(e, ports) if _is_ours(e, namespace) else e for e in read(text)]
    return json.dumps(elements, separators=(",", ":"))


def _with_ports(element: Element, ports: PortRange | None) -> Element:
    arguments = element.get("cni-args")
    if not isinstance(arguments, dict) or SOURCE_PORTS not in arguments:
        return element
    others = {key: value for key, value in arguments.items() if key != SOURCE_PORTS}
    return {**element, "cni-args": others | ({SOURCE_PORTS: str(ports)} if ports else {})}


def _element(chain: Chain, stage: Stage, interface: Interface, drain_id: str, sign: Sign) -> Element:
    arguments = statement(chain, stage, interface, drain_id, sign)
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
        elements = strict_json.loads(text)
    except ValueError as error:
        raise AnnotationError(f"is not JSON ({error}); correct it, Multus could not read it either") from error
    elements = elements if isinstance(elements, list) else [elements]
    for i, element in enumerate(elements):
        if fault := _fault(element):
            raise AnnotationError(f"element {i}{fault}")
    return elements


def _fault(element: object) -> str | None:
    """Why Multus cannot read the element, as the end of a message; None when it can."""
    if not isinstance(element, dict) or not isinstance(element.get("name"), str) or not element["name"]:
        return ' must be an object with a name, as {"name": "other-network"}'
    for key, (kind, what) in FIELDS.items():
        if element.get(key) is not None and not isinstance(element[key], kind):
            return f": {key} must be {what}"
    for ip in element.get("ips") or ():
        if not _is_address(ip):
            return f": ips has {shown(ip)}, which is not an address; write it as 10.1.0.2/24"
    if (written := element.get("mac")) and not mac.go_reads(written):
        return f": mac is {shown(written)}; write it as 02:00:5e:10:00:01"
    return None


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_interface(value))
    except ValueError:
        return False


def _from_item(item: str) -> Element:
    namespace, _, rest = item.rpartition("/")
    name, _, interface = rest.partition("@")
    namespace, name, interface = namespace.strip(), name.strip(), interface.strip()
    named = _LABEL.fullmatch(name) and (not namespace or _LABEL.fullmatch(namespace))
    if not named or (interface and not _INTERFACE.fullmatch(interface)) or "@" in interface:
        raise AnnotationError(f"{shown(item)} is not [namespace/]name[@interface]; correct it")
    parts = {"namespace": namespace, "name": name, "interface": interface}
    return {key: value for key, value in parts.items() if value}


def _is_ours(element: Element, namespace: str) -> bool:
    return element["name"] == names.NETWORK_NAME and element.get("namespace") in (None, "", namespace)


def _refuse_same_interface(merged: Iterable[Element], mine: Sequence[Element]) -> None:
    wanted = {element["interface"] for element in mine}
    for i, element in enumerate(merged):
        # Multus names an interface net1, net2, … when its element names none.
        interface = element.get("interface") or element.get("interfaceRequest") or f"net{i + 1}"
        if interface in wanted and element not in mine:
            raise AnnotationError(
                f"network {json.dumps(element['name'])} takes the interface name {json.dumps(interface)}, which the "
                "chain's stage has too; give the network another one (@interface), or rename the stage's"
            )
