"""The CNI call as a value, and its answers (CNI specification 1.0). Pure: no input or output here.

`server` receives calls, `wiring` carries them out. How a call travels from the plugin to the agent is
written down at the top of cni/sfc-cni.c; HEADER and ANSWER below are that format.

What reaches us through Multus: the interface name as CNI_IFNAME, addresses and MAC as `runtimeConfig.ips` and
`runtimeConfig.mac` (only when the NetworkAttachmentDefinition has the capabilities `ips` and `mac`; otherwise Multus
drops them without a word), and the annotation's `cni-args` as `args.cni`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from sfc import annotation, mac, names, strict_json
from sfc.chain import Interface, Route
from sfc.source_ports import PortRange

T = TypeVar("T")

MAGIC = b"SFC1"
HEADER = struct.Struct("!4sII")
"""Magic, length of the environment, length of the configuration."""
ANSWER = struct.Struct("!II")
"""Exit status, length of the output."""
LIMIT = 1 << 20
"""Bytes of environment and configuration together; bytes of the output."""

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_VERSION = "1.0.0"

CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
INTERFACE_NAME = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}")
"""Printable ASCII but '/' and ':', which the kernel refuses."""
POD_UID = re.compile(r"[0-9A-Za-z-]{0,64}")
DRAIN_ID = re.compile(r"[0-9a-f]{32}")
PLUGIN_NAME = re.compile(r"[^/\0]+")
MIN_MTU, MIN_IPV6_MTU, MAX_MTU = 68, 1280, 65535


class Code(IntEnum):
    """Numbers below 100 are the specification's."""

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


class CniError(Exception):
    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def output(self) -> dict[str, Any]:
        return {
            "cniVersion": DEFAULT_VERSION,
            "code": int(self.code),
            "msg": f"sfc: {self.message}",
            "details": self.details,
        }


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it arrived."""

    environment: Mapping[str, str]
    configuration: bytes
    netns: int | None
    """Open descriptor of the pod's network namespace; None when the plugin was given none, or could not open it."""

    @property
    def command(self) -> str:
        return self.environment.get("CNI_COMMAND", "")


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    uid: str
    """Empty when the runtime does not pass K8S_POD_UID (containerd before 1.6, CRI-O before 1.20)."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Request:
    """One interface of one pod to ADD, DEL or CHECK."""

    call: Call
    version: str
    container_id: str
    interface: Interface
    """For DEL the name alone."""
    pod: Pod
    chain: str
    stage: str
    drain_id: str
    ipam: str | None
    """The IPAM plugin to delegate to; None without addresses (a transparent function)."""
    source_ports: PortRange | None = None
    """The ports that the pod's sockets shall keep to; None for no such limit."""

    @property
    def host_name(self) -> str:
        """Name of the host end: 15 characters, the same at every repetition of the call."""
        digest = hashlib.sha256(f"{self.container_id}/{self.interface.name}".encode()).hexdigest()
        return f"sfc{digest[:12]}"

    @property
    def netns(self) -> int:
        if self.call.netns is None:
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"CNI_NETNS is {self.call.environment.get('CNI_NETNS', '')!r}, which cannot be opened: "
                "pass the path of the pod's network namespace",
            )
        return self.call.netns


def request_of(call: Call) -> Request:
    """What an ADD or CHECK asks for. Raises CniError, naming field, value and remedy."""
    configuration = _decoded(call.configuration)
    version = _version(configuration)
    interface = _interface(_interface_name(call.environment), configuration)
    pod = _pod(_arguments(call.environment))
    return Request(
        call=call,
        version=version,
        container_id=_container_id(call.environment),
        interface=interface,
        pod=pod,
        chain=_field(configuration, "args.cni.chain", str, ""),
        stage=_field(configuration, "args.cni.stage", str, ""),
        drain_id=_drain_id(configuration),
        ipam=_ipam(configuration) if interface.addresses else None,
        source_ports=_source_ports(configuration, pod),
    )


def deletion_of(call: Call) -> Request:
    """What a DEL asks for: as little as possible, since a DEL that fails keeps its pod in Terminating.

    Only the attachment's name is needed. A configuration that no ADD would have accepted left nothing to release.
    """
    try:
        configuration = _decoded(call.configuration)
        ipam = _ipam(configuration) if _field(configuration, "runtimeConfig.ips", list, []) else None
    except CniError:
        ipam = None
    return Request(
        call=call,
        version=DEFAULT_VERSION,
        container_id=_container_id(call.environment),
        interface=Interface(name=_interface_name(call.environment), mac=""),
        pod=_pod(_arguments(call.environment)),
        chain="",
        stage="",
        drain_id="",
        ipam=ipam,
    )


def versions_output(call: Call) -> dict[str, Any]:
    asked = _decoded(call.configuration).get("cniVersion", DEFAULT_VERSION) if call.configuration else DEFAULT_VERSION
    return {"cniVersion": asked, "supportedVersions": list(VERSIONS)}


def result(request: Request, host_mac: str, interface: Interface, ipam: Mapping[str, Any]) -> dict[str, Any]:
    """The result of an ADD; `interface` is what was set up, `ipam` what the IPAM plugin answered."""
    sandbox = request.call.environment.get("CNI_NETNS", "")
    return {
        "cniVersion": request.version,
        "interfaces": [
            {"name": request.host_name, "mac": host_mac},
            {"name": interface.name, "mac": interface.mac, "sandbox": sandbox},
        ],
        "ips": [{**ip, "interface": 1} for ip in ipam.get("ips") or ()],
        "routes": [{"dst": r.dst, **({"gw": r.gw} if r.gw else {})} for r in interface.routes],
        "dns": ipam.get("dns", {}),
    }


def route_of(where: str, obj: Any) -> Route:
    """A route as CNI writes it, checked."""
    route = Route(dst=_field(obj, "dst", str, "", where), gw=_field(obj, "gw", str, "", where) or None)
    try:
        version = ipaddress.ip_network(route.dst).version
    except ValueError as error:
        raise _invalid(f"{where}.dst", route.dst, "give a prefix such as 10.2.0.0/16, host bits zero") from error
    if route.gw is not None and _address_version(route.gw) != version:
        raise _invalid(f"{where}.gw", route.gw, f"give an IPv{version} address without prefix, or leave it out")
    return route


def addresses_of(where: str, values: Iterable[Any]) -> tuple[str, ...]:
    """Addresses with prefix, checked."""
    return tuple(_address(f"{where}[{i}]", value) for i, value in enumerate(values))


def _address(where: str, value: Any) -> str:
    if isinstance(value, str) and "/" in value:
        with suppress(ValueError):
            ipaddress.ip_interface(value)
            return value
    raise _invalid(where, value, "give an address with prefix, such as 10.1.0.2/24")


def _version(configuration: Mapping[str, Any]) -> str:
    version = _field(configuration, "cniVersion", str, DEFAULT_VERSION)
    if version not in VERSIONS:
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion is {version!r}: use one of {', '.join(VERSIONS)}")
    return version


def _interface(name: str, configuration: Mapping[str, Any]) -> Interface:
    addresses = addresses_of("runtimeConfig.ips", _field(configuration, "runtimeConfig.ips", list, []))
    routes = _field(configuration, "args.cni.routes", list, [])
    return Interface(
        name=name,
        mac=_mac(configuration),
        addresses=addresses,
        mtu=_mtu(configuration, MIN_IPV6_MTU if any(":" in a for a in addresses) else MIN_MTU),
        routes=tuple(route_of(f"args.cni.routes[{i}]", route) for i, route in enumerate(routes)),
    )


def _mac(configuration: Mapping[str, Any]) -> str:
    written = _field(configuration, "runtimeConfig.mac", str, "").lower()
    if not written:
        raise CniError(
            Code.INVALID_CONFIGURATION,
            "runtimeConfig.mac is missing: give the NetworkAttachmentDefinition "
            '"capabilities": {"ips": true, "mac": true}, and the pod\'s network annotation a mac',
        )
    octets = mac.octets(written)
    if octets is None or not mac.is_unicast(octets):
        raise _invalid("runtimeConfig.mac", written, "give a unicast MAC such as 02:00:00:00:00:01")
    return written


def _mtu(configuration: Mapping[str, Any], least: int) -> int | None:
    mtu: int = _field(configuration, "args.cni.mtu", int, 0)
    if mtu and not least <= mtu <= MAX_MTU:
        raise _invalid("args.cni.mtu", mtu, f"give {least} to {MAX_MTU} bytes, or leave it out")
    return mtu or None


def _drain_id(configuration: Mapping[str, Any]) -> str:
    drain_id = _field(configuration, "args.cni.drainId", str, "")
    if not DRAIN_ID.fullmatch(drain_id):
        raise _invalid(
            "args.cni.drainId", drain_id, "only the sfc webhook gives it; let the webhook admit the pod, by its labels"
        )
    return drain_id


def _source_ports(configuration: Mapping[str, Any], pod: Pod) -> PortRange | None:
    text = _field(configuration, "args.cni.sourcePorts", str, None)
    if text is None:
        return None
    if text == annotation.NOT_YET:
        raise CniError(
            Code.INVALID_CONFIGURATION,
            f"pod {pod} has no source ports yet, but was scheduled: somebody removed its scheduling gate "
            f"{names.SOURCE_PORTS}; delete the pod, and leave the gate to the cluster controller",
        )
    ports = PortRange.parse(text)
    if ports is None:
        raise _invalid("args.cni.sourcePorts", text, "only the cluster controller gives it; delete the pod")
    return ports


def _ipam(configuration: Mapping[str, Any]) -> str:
    plugin = _field(configuration, "ipam.type", str, "")
    if not PLUGIN_NAME.fullmatch(plugin):
        raise _invalid("ipam.type", plugin, 'name the IPAM plugin, usually "static"')
    return plugin


def _container_id(environment: Mapping[str, str]) -> str:
    return _variable(environment, "CNI_CONTAINERID", CONTAINER_ID, "letters, digits, '_', '.', '-'")


def _interface_name(environment: Mapping[str, str]) -> str:
    return _variable(environment, "CNI_IFNAME", INTERFACE_NAME, "1 to 15 ASCII characters without space, '/' and ':'")


def _variable(environment: Mapping[str, str], name: str, pattern: re.Pattern[str], remedy: str) -> str:
    value = environment.get(name, "")
    if not pattern.fullmatch(value):
        raise CniError(Code.INVALID_ENVIRONMENT, f"{name} is {value[:64]!r}: give {remedy}")
    return value


def _arguments(environment: Mapping[str, str]) -> dict[str, str]:
    """CNI_ARGS. Multus repeats some keys, an empty value before or after the real one."""
    pairs = (pair.partition("=") for pair in environment.get("CNI_ARGS", "").split(";"))
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def _pod(args: Mapping[str, str]) -> Pod:
    uid = args.get("K8S_POD_UID", "")
    if not POD_UID.fullmatch(uid):
        raise CniError(Code.INVALID_ENVIRONMENT, f"K8S_POD_UID in CNI_ARGS is {uid[:64]!r}: give the pod's UID")
    return Pod(namespace=args.get("K8S_POD_NAMESPACE", ""), name=args.get("K8S_POD_NAME", ""), uid=uid)


def _decoded(configuration: bytes) -> dict[str, Any]:
    try:
        value = strict_json.loads(configuration)
    except ValueError as error:
        raise CniError(
            Code.DECODING_FAILURE,
            f"the network configuration is not JSON: {error}",
            "correct spec.config of the NetworkAttachmentDefinition",
        ) from error
    if not isinstance(value, dict):
        raise CniError(Code.DECODING_FAILURE, f"the network configuration is a {type(value).__name__}: give an object")
    return value


def _field(obj: Any, path: str, kind: type[T], default: T, where: str = "") -> T:
    """The value at a dotted path; `default` when any step is absent or null."""
    value = obj
    for i, key in enumerate(path.split(".")):
        if not isinstance(value, dict):
            raise _invalid(".".join((where, *path.split(".")[:i])).strip("."), value, "give an object")
        value = value.get(key)
        if value is None:
            return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _invalid(".".join((where, path)).strip("."), value, f"give a value of type {kind.__name__}")
    return value


def _address_version(address: str) -> int | None:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


def _invalid(field: str, value: object, remedy: str) -> CniError:
    return CniError(Code.INVALID_CONFIGURATION, f"{field} is {json.dumps(value)[:128]}: {remedy}")
