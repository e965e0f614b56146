"""The door: how an attachment or an addition is read from a call. Whatever passes is checked.

Every refusal names the field or variable, its value and the remedy.

What reaches us through Multus: the interface name as CNI_IFNAME, addresses and MAC as `runtimeConfig.ips` and
`runtimeConfig.mac` (only when the NetworkAttachmentDefinition has the capabilities `ips` and `mac`; otherwise Multus
drops them silently), and the annotation's `cni-args`, the webhook's signed statement, as `args.cni`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from controller.node.cni.answer import DEFAULT_VERSION, VERSIONS, CniError, Code
from controller.node.cni.attachment import Addition, Attachment, IpamPlugin, PodIdentity
from controller.node.cni.call import Call
from controller.node.cni.fields import addresses_of, field, invalid, route_of
from sfc import annotation, mac, names, strict_json
from sfc.chain import Interface
from sfc.source_ports import PortRange
from sfc.statement import SIGNATURE, Arguments
from sfc.validation.fault import MAX_MTU, MIN_MTU, MIN_MTU_IPV6, label

CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
INTERFACE_NAME = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}")
"""Printable ASCII but '/' and ':', which the kernel refuses."""
POD_UID = re.compile(r"[0-9A-Za-z-]{0,64}")
DRAIN_ID = re.compile(r"[0-9a-f]{32}")
IPAM_PLUGINS = ("static",)
"""The IPAM plugins that the agent runs. It never runs any other program that a configuration names."""


def addition_of(call: Call) -> Addition:
    """What an ADD or CHECK is to make or find. Raises CniError."""
    configuration = _decoded(call.configuration)
    version = _version(configuration)
    statement = _statement(call, configuration)
    interface = _interface(_interface_name(call.environment), configuration)
    attachment = _attachment(call, _ipam(configuration) if interface.addresses else None)
    return Addition(
        attachment=attachment,
        version=version,
        interface=interface,
        chain=_label(configuration, "args.cni.chain"),
        stage=_label(configuration, "args.cni.stage"),
        drain_id=_drain_id(configuration),
        source_ports=_source_ports(configuration, attachment.pod),
        netns=_netns(call),
        sandbox=call.environment.get("CNI_NETNS", ""),
        statement=statement,
    )


def attachment_of(call: Call) -> Attachment:
    """What a DEL is to remove. Raises CniError when the environment does not name it.

    A DEL that fails keeps its pod in Terminating, so a configuration that no ADD would have accepted is not refused:
    no ADD succeeded with it, and there are no addresses to release.
    """
    try:
        configuration = _decoded(call.configuration)
        ipam = _ipam(configuration) if field(configuration, "runtimeConfig.ips", list, []) else None
    except CniError:
        ipam = None
    return _attachment(call, ipam)


def asked_version(call: Call) -> object:
    """The cniVersion of a VERSION's configuration, unchecked. Raises CniError when the configuration is not JSON."""
    configuration = _decoded(call.configuration) if call.configuration else {}
    return configuration.get("cniVersion", DEFAULT_VERSION)


def _attachment(call: Call, ipam: str | None) -> Attachment:
    environment = call.environment
    return Attachment(
        container_id=_variable(environment, "CNI_CONTAINERID", CONTAINER_ID, "letters, digits, '_', '.', '-'"),
        interface_name=_interface_name(environment),
        pod=_pod(_arguments(environment)),
        ipam=None if ipam is None else IpamPlugin(ipam, call),
    )


def _interface_name(environment: Mapping[str, str]) -> str:
    return _variable(environment, "CNI_IFNAME", INTERFACE_NAME, "1 to 15 ASCII characters without space, '/' and ':'")


def _variable(environment: Mapping[str, str], name: str, pattern: re.Pattern[str], remedy: str) -> str:
    value = environment.get(name, "")
    if not pattern.fullmatch(value):
        raise CniError(Code.INVALID_ENVIRONMENT, f"{name} is {value[:64]!r}: give {remedy}")
    return value


def _arguments(environment: Mapping[str, str]) -> dict[str, str]:
    """CNI_ARGS. Multus repeats some keys, an empty value before or after the real one. Raises CniError when a key that
    says who the pod is has two values: that must not depend on which of them counts."""
    found: dict[str, str] = {}
    for pair in environment.get("CNI_ARGS", "").split(";"):
        key, value = (part.strip() for part in pair.partition("=")[::2])
        if value and found.setdefault(key, value) != value and key.startswith("K8S_POD_"):
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"{key[:64]} in CNI_ARGS is both {found[key][:64]!r} and {value[:64]!r}: give one value",
            )
    return found


def _pod(arguments: Mapping[str, str]) -> PodIdentity:
    uid = arguments.get("K8S_POD_UID", "")
    if not POD_UID.fullmatch(uid):
        raise CniError(Code.INVALID_ENVIRONMENT, f"K8S_POD_UID in CNI_ARGS is {uid[:64]!r}: give the pod's UID")
    return PodIdentity(
        namespace=arguments.get("K8S_POD_NAMESPACE", ""), name=arguments.get("K8S_POD_NAME", ""), uid=uid
    )


def _statement(call: Call, configuration: Mapping[str, Any]) -> Arguments:
    """The webhook's arguments, which must have a signature. This comes before all other checks of what only the webhook
    can give: their remedies would be wrong for somebody who wrote the network into a pod by hand."""
    if not field(configuration, f"args.cni.{SIGNATURE}", str, ""):
        raise CniError(
            Code.NOT_SIGNED,
            f"pod {_pod(_arguments(call.environment))} asks for the network {names.NETWORK_NAME!r} without a signature "
            f"of the webhook: label its workload with {names.CHAIN_LABEL} and {names.STAGE_LABEL}, and the webhook "
            "asks for the network; a replica from before an upgrade: delete the pod, its workload makes another",
        )
    arguments: Arguments = field(configuration, "args.cni", dict, {})
    return arguments


def _label(configuration: Mapping[str, Any], path: str) -> str:
    """The name of a chain or a stage. It becomes part of the link's alias, so it must not be longer."""
    name = field(configuration, path, str, "")
    if fault := label(name):
        raise CniError(Code.INVALID_CONFIGURATION, f"{path} is {json.dumps(name)[:128]}: {fault}")
    return name


def _netns(call: Call) -> int:
    if call.netns is None:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_NETNS is {call.environment.get('CNI_NETNS', '')!r}, which cannot be opened: "
            "pass the path of the pod's network namespace",
        )
    return call.netns


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


def _version(configuration: Mapping[str, Any]) -> str:
    version = field(configuration, "cniVersion", str, DEFAULT_VERSION)
    if version not in VERSIONS:
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion is {version!r}: use one of {', '.join(VERSIONS)}")
    return version


def _interface(name: str, configuration: Mapping[str, Any]) -> Interface:
    addresses = addresses_of("runtimeConfig.ips", field(configuration, "runtimeConfig.ips", list, []))
    routes = field(configuration, "args.cni.routes", list, [])
    return Interface(
        name=name,
        mac=_mac(configuration),
        addresses=addresses,
        mtu=_mtu(configuration, MIN_MTU_IPV6 if any(":" in a for a in addresses) else MIN_MTU),
        routes=tuple(route_of(f"args.cni.routes[{i}]", route) for i, route in enumerate(routes)),
    )


def _mac(configuration: Mapping[str, Any]) -> str:
    written = field(configuration, "runtimeConfig.mac", str, "").lower()
    if not written:
        raise CniError(
            Code.INVALID_CONFIGURATION,
            "runtimeConfig.mac is missing: give the NetworkAttachmentDefinition "
            '"capabilities": {"ips": true, "mac": true}, and the pod\'s network annotation a mac',
        )
    octets = mac.octets(written)
    if octets is None or not mac.is_unicast(octets):
        raise invalid("runtimeConfig.mac", written, "give a unicast MAC such as 02:00:00:00:00:01")
    return written


def _mtu(configuration: Mapping[str, Any], least: int) -> int | None:
    mtu: int = field(configuration, "args.cni.mtu", int, 0)
    if mtu and not least <= mtu <= MAX_MTU:
        raise invalid("args.cni.mtu", mtu, f"give {least} to {MAX_MTU} bytes, or leave it out")
    return mtu or None


def _drain_id(configuration: Mapping[str, Any]) -> str:
    drain_id = field(configuration, "args.cni.drainId", str, "")
    if not DRAIN_ID.fullmatch(drain_id):
        raise invalid(
            "args.cni.drainId", drain_id, "only the sfc webhook gives it; let the webhook admit the pod, by its labels"
        )
    return drain_id


def _source_ports(configuration: Mapping[str, Any], pod: PodIdentity) -> PortRange | None:
    text = field(configuration, "args.cni.sourcePorts", str, None)
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
        raise invalid("args.cni.sourcePorts", text, "only the cluster controller gives it; delete the pod")
    return ports


def _ipam(configuration: Mapping[str, Any]) -> str:
    plugin = field(configuration, "ipam.type", str, "")
    if plugin not in IPAM_PLUGINS:
        raise invalid("ipam.type", plugin, f"give {' or '.join(IPAM_PLUGINS)}; the agent runs no other IPAM plugin")
    return plugin
