"""The Multus annotation `k8s.v1.cni.cncf.io/networks`: reads both of its syntaxes, adds our elements, writes JSON.

The Network Plumbing Working Group's specification (v1.3, 4.1.2) defines the syntaxes: a comma-separated list of
`[namespace/]name[@interface]`, or a JSON list of objects. A single element that Multus cannot read leaves the pod in
ContainerCreating, so this module finds such faults at admission.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sfc import ip, mac, names, strict_json
from sfc.chain import Chain, Interface, Stage
from sfc.source_ports import PortRange
from sfc.statement import SIGNATURE, SOURCE_PORTS, Sign, statement
from sfc.validation.fault import RESERVED_INTERFACES
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
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""Of a NetworkAttachmentDefinition: a DNS-1123 subdomain. The short syntax allows no dots."""
_INTERFACE = re.compile(r"(?!\.{1,2}$)[^\s/:]{1,15}")
"""The rules of libcni (ValidateInterfaceName)."""
_INTERFACE_REMEDY = "write 1 to 15 characters without space, '/' and ':'"
_NUMBER, _TEXT = (int, "a whole number"), (str, "a string")
_PORT_MAPPING = {"hostPort": _NUMBER, "containerPort": _NUMBER, "protocol": _TEXT, "hostIP": _TEXT}
_BANDWIDTH = dict.fromkeys(("ingressRate", "ingressBurst", "egressRate", "egressBurst"), _NUMBER)


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


def by_hand(text: object, namespace: str) -> bool:
    """Whether a pod's annotation asks for our network without the arguments that admission gives. False for one that
    cannot be read."""
    return any(not _admitted(element) for element in _readable(text, namespace))


def made_for(text: object, namespace: str) -> frozenset[tuple[str, str]]:
    """The chain and stage for which admission asked for interfaces; empty for a pod that is no replica, and for an
    annotation that cannot be read."""
    arguments = [element["cni-args"] for element in _readable(text, namespace) if _admitted(element)]
    return frozenset((str(a.get("chain")), str(a.get("stage"))) for a in arguments)


def _readable(text: object, namespace: str) -> list[Element]:
    """Our elements."""
    try:
        return [element for element in read(text) if _is_ours(element, namespace)]
    except AnnotationError:
        return []


def _admitted(element: Element) -> bool:
    return bool(_ADMITTED & (element.get("cni-args") or {}).keys())


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
    own = [e for e in present if not (_is_ours(e, namespace) and _admitted(e))]
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
    """Why Multus cannot use the element, as the end of a message; None when it can."""
    if not isinstance(element, dict) or not isinstance(element.get("name"), str) or not element["name"]:
        return ' must be an object with a name, as {"name": "other-network"}'
    return next(_faults(element), None)


def _faults(element: Element) -> Iterator[str]:
    """Each assumes that those before it were not found."""
    yield from _wrong_types("", element, FIELDS)
    for i, mapping in enumerate(element.get("portMappings") or ()):
        yield from _wrong_types(f"portMappings[{i}]", mapping, _PORT_MAPPING)
    yield from _wrong_types("bandwidth", element.get("bandwidth") or {}, _BANDWIDTH)
    yield from _wrong_names(element)
    for key in ("interface", "interfaceRequest"):
        if (written := element.get(key)) and not _INTERFACE.fullmatch(written):
            yield f": {key} is {shown(written)}; {_INTERFACE_REMEDY}"
    for written in element.get("ips") or ():
        if not _is_address(written):
            yield f": ips has {shown(written)}, which is not an address; write it as 10.1.0.2/24"
    for written in element.get("default-route") or ():
        if not _is_address(written) or "/" in written:
            yield f": default-route has {shown(written)}, which is not an address; write it as 10.1.0.1"
    for key in ("mac", "infiniband-guid"):
        if (written := element.get(key)) and not mac.go_reads(written):
            yield f": {key} is {shown(written)}; write it as 02:00:5e:10:00:01"


def _wrong_types(path: str, value: object, fields: Mapping[str, tuple[type, str]]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f": {path} must be an object"
        return
    for key, (kind, what) in fields.items():
        found = value.get(key)
        if found is not None and (not isinstance(found, kind) or isinstance(found, bool)):
            yield f": {path}{'.' if path else ''}{key} must be {what}"


def _wrong_names(element: Element) -> Iterator[str]:
    name, namespace = element["name"], element.get("namespace")
    if not _NAME.fullmatch(name):
        yield f": name is {shown(name)}; {_apart(name)}"
    if namespace and not _LABEL.fullmatch(namespace):
        yield f": namespace is {shown(namespace)}; write a name as Kubernetes allows it"


def _apart(name: str) -> str:
    """What to write instead of the name: the short syntax is for texts without JSON."""
    try:
        parts = _from_item(name)
    except AnnotationError:
        return "write a name as Kubernetes allows it"
    words = " and ".join(sorted(parts, key=["namespace", "name", "interface"].index))
    return f"write {words} apart: {json.dumps({'name': parts.pop('name'), **parts})}"


def _is_address(value: object) -> bool:
    """Whether Go reads it: with a prefix length at most, no netmask and no zone."""
    if not isinstance(value, str):
        return False
    _, slash, length = value.partition("/")
    if "%" in value or (slash and not (length.isascii() and length.isdigit())):
        return False
    try:
        return bool(ip.interface(value))
    except ValueError:
        return False


def _from_item(item: str) -> Element:
    namespace, _, rest = item.rpartition("/")
    name, _, interface = rest.partition("@")
    namespace, name, interface = namespace.strip(), name.strip(), interface.strip()
    named = _NAME.fullmatch(name) and "." not in name and (not namespace or _LABEL.fullmatch(namespace))
    if not named or (interface and not _INTERFACE.fullmatch(interface)) or "@" in interface:
        raise AnnotationError(f"{shown(item)} is not [namespace/]name[@interface]; correct it")
    parts = {"namespace": namespace, "name": name, "interface": interface}
    return {key: value for key, value in parts.items() if value}


def _is_ours(element: Element, namespace: str) -> bool:
    return element["name"] == names.NETWORK_NAME and element.get("namespace") in (None, "", namespace)


def _refuse_same_interface(merged: Iterable[Element], mine: Sequence[Element]) -> None:
    """Multus makes one interface after the other, and fails at a name that is taken."""
    wanted = {element["interface"] for element in mine}
    taken: dict[str, Element] = {}
    for i, element in enumerate(merged):
        # Multus names an interface net1, net2, … when its element names none.
        interface = element.get("interface") or element.get("interfaceRequest") or f"net{i + 1}"
        network, name = json.dumps(element["name"]), json.dumps(interface)
        if element in mine:
            continue
        if interface in wanted:
            raise AnnotationError(
                f"network {network} takes the interface name {name}, which the chain's stage has too; give the network "
                "another one (@interface), or rename the stage's"
            )
        if reserved := RESERVED_INTERFACES.get(interface):
            raise AnnotationError(
                f"network {network} takes the interface name {name}, {reserved} in every pod; give the network another "
                "one (@interface)"
            )
        if other := taken.get(interface):
            raise AnnotationError(
                f"networks {json.dumps(other['name'])} and {network} take the same interface name {name}; give one of "
                "them another one (@interface)"
            )
        taken[interface] = element
