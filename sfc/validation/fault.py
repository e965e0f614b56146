"""What is wrong with a single value of a chain; and every limit.

Each function takes any JSON value, or MISSING, and returns the end of a message: the fault and the remedy. It returns
None for a sound value.
"""

from __future__ import annotations

import ipaddress
import re

from sfc import ip
from sfc.chain import PREFER_SAME_NODE, AtDeadline, Hook, SessionKey
from sfc.mac import is_unicast, octets
from sfc.source_ports import MAX_SLICES
from sfc.validation.problem import MISSING

MAX_STAGES = 32
MAX_INTERFACES = 8
"""Of one stage."""
MAX_LINKS = 64
MAX_ADDRESSES = 8
"""Of one interface."""
MAX_ROUTES = 32
"""Of one interface."""
MAX_INTERFACES_IN_ALL = 128
"""Of one chain, as are the two below: as many as its links have ends. See sfc.validation.bounds."""
MAX_ADDRESSES_IN_ALL = 128
MAX_ROUTES_IN_ALL = 256
MAX_INTERFACE_NAME = 15
"""Characters: the kernel's IFNAMSIZ (16) less the terminating zero."""
MAX_DNS_LABEL = 63
"""Characters (RFC 1123); the value of a label has the same limit."""
MIN_MTU = 68
"""Bytes: what every IPv4 link must carry (RFC 791)."""
MIN_MTU_IPV6 = 1280
"""Bytes: what every IPv6 link must carry (RFC 8200). The kernel turns IPv6 off below it."""
MAX_MTU = 65535
"""Bytes: the longest IPv4 packet (RFC 791)."""
MAX_DEADLINE_SECONDS = 3600
MAX_IDLE_SECONDS = 86400
RESERVED_INTERFACES = {"lo": "the loopback interface", "eth0": "the cluster's own interface"}
"""Names that every pod already uses, and for what."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NAME_RULE = "use lower-case letters, digits and '-', with a letter or digit first and last"
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
_BROADCAST = ipaddress.ip_address("255.255.255.255")
_DEFAULT_PREFIX = {4: 24, 6: 64}


def label(value: object) -> str | None:
    """For names of chains, namespaces and stages: a DNS label (RFC 1123)."""
    return _name(value, "a name", MAX_DNS_LABEL, f"{MAX_DNS_LABEL} are allowed (it is used as a label's value)")


def interface_name(value: object) -> str | None:
    """For the name of an interface inside the pod."""
    if isinstance(value, str) and value in RESERVED_INTERFACES:
        return f"is {RESERVED_INTERFACES[value]} in every pod; choose another name"
    return _name(value, "an interface name", MAX_INTERFACE_NAME, f"the kernel allows {MAX_INTERFACE_NAME}")


def _name(value: object, what: str, most: int, limit: str) -> str | None:
    if value is MISSING:
        return "is required"
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return f"is not {what}; {_NAME_RULE}"
    return f"has {len(value)} characters, {limit}; shorten it" if len(value) > most else None


def address(value: object) -> str | None:
    """For an address of an interface: unicast, in CIDR notation."""
    if not isinstance(value, str):
        return "must be a string, as 10.1.0.1/24"
    written, slash, prefix = value.partition("/")
    try:
        host = ip.address(written)
        if not slash:
            return f"has no prefix length; write {value}/{_DEFAULT_PREFIX[host.version]}, or whatever its network has"
        if "%" in written or not _PREFIX.fullmatch(prefix):
            raise ValueError
        ip.interface(value)
    except ValueError:
        return "is not an address with prefix length; write it as 10.1.0.1/24 or 2001:db8::1/64"
    if host.is_unspecified or host.is_loopback or host.is_multicast:
        return "cannot be the address of an interface; give a unicast address"
    if host == _BROADCAST or (isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped):
        return "is not an address that an interface can have; give a unicast address"
    return None


def mac(value: object) -> str | None:
    """For the MAC of an interface: unicast and not zero (IEEE 802)."""
    packed = octets(value)
    if packed is None:
        return "is not a MAC; write six bytes as 02:00:5e:10:00:01, or leave mac out to have one derived"
    if not any(packed):
        return "is the zero MAC; give another one, or leave mac out to have one derived"
    if not is_unicast(packed):
        return "is a multicast MAC (first byte is odd); give a unicast one, or leave mac out to have one derived"
    return None


def mtu(value: object, ipv6: bool) -> str | None:
    """For an MTU in bytes, of an interface with or without IPv6 addresses."""
    if not _is_integer(value, MIN_MTU, MAX_MTU):
        return f"is not an MTU; give bytes from {MIN_MTU} to {MAX_MTU}"
    if ipv6 and not _is_integer(value, MIN_MTU_IPV6, MAX_MTU):
        return f"is too small for IPv6, which needs {MIN_MTU_IPV6} (RFC 8200); raise it, or remove the IPv6 addresses"
    return None


def deadline(value: object) -> str | None:
    """For a drain deadline in seconds."""
    if _is_integer(value, 0, MAX_DEADLINE_SECONDS):
        return None
    return f"is not a deadline; give whole seconds from 0 to {MAX_DEADLINE_SECONDS}"


def idle(value: object) -> str | None:
    """For the seconds after which a silent session is over. A drain sees silences of a second and more."""
    if _is_integer(value, 1, MAX_IDLE_SECONDS):
        return None
    return f"is not a time that a session may be silent; give whole seconds from 1 to {MAX_IDLE_SECONDS}"


def flag(value: object) -> str | None:
    """For what is on or off."""
    return None if isinstance(value, bool) else "is neither true nor false; give one of them, without quotes"


def slices(value: object) -> str | None:
    """For the number of slices of the source ports."""
    if value is MISSING:
        return "is required: into how many slices the source ports are divided, one for each replica, as 16"
    if _is_integer(value, 1, MAX_SLICES):
        return None
    return f"is not a number of slices; give 1 to {MAX_SLICES}, at least as many as the stage may have replicas"


def replica_numbers(value: object) -> str | None:
    """For how many numbers there are for the replicas of a stage."""
    if _is_integer(value, 1, MAX_SLICES):
        return None
    return f"is not how many numbers there are; give 1 to {MAX_SLICES}, at least as many as the stage may have replicas"


def hook(value: object) -> str | None:
    """For the kind of PreStop hook."""
    kinds = [kind.value for kind in Hook]
    return None if value in kinds else f"is not a drain hook; give one of {', '.join(kinds)}"


def at_deadline(value: object) -> str | None:
    """For what becomes of the sessions that a drain's deadline finds."""
    ways = [way.value for way in AtDeadline]
    if value in ways:
        return None
    return f"is not what the deadline can do with the sessions that are left; give one of {', '.join(ways)}"


def distribution(value: object) -> str | None:
    """For where new sessions go."""
    if value == PREFER_SAME_NODE:
        return None
    return (
        f"is not supported; give {PREFER_SAME_NODE}, so that new sessions stay on their node while it has serving "
        "replicas, or leave it out for an even spread over the replicas of all nodes"
    )


def session_key(value: object) -> str | None:
    """For what belongs to one session."""
    kinds = [str(kind) for kind in SessionKey]
    return None if value in kinds else f"is no session key; give one of {', '.join(kinds)}"


def destination(value: object) -> str | None:
    """For the destination of a route: a prefix in CIDR notation, IPv4 or IPv6."""
    if value is MISSING:
        return "is required: the destination, as 0.0.0.0/0"
    written, _, prefix = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        if "%" in written or not _PREFIX.fullmatch(prefix):
            raise ValueError
        network = ip.network(f"{written}/{prefix}")
    except ValueError:
        return "is not a destination; write it with prefix length, as 0.0.0.0/0 or 10.2.0.0/16"
    if ip.address(written) != network.network_address:
        return f"has bits set beyond its prefix; write {network}"
    return None


def gateway(value: object) -> str | None:
    """For the gateway of a route: an address without prefix length, IPv4 or IPv6."""
    try:
        if isinstance(value, str) and "%" not in value:
            ip.address(value)
            return None
    except ValueError:
        pass
    return "is not a gateway; write an address without prefix, as 10.1.0.1"


def gateway_mismatch(
    destination: ip.Network,
    gateway: ip.Address,
    addresses: list[ip.Interface],
) -> str | None:
    """For the gateway of a route, beside its destination and the addresses of its interface."""
    if gateway.version != destination.version:
        return f"is IPv{gateway.version}, its destination {destination} is not; give both the same family"
    if any(gateway == address.ip for address in addresses):
        return "is the interface's own address; give the address of the next hop"
    if gateway.version == 6 and gateway.is_link_local:
        return None
    if not any(gateway in address.network for address in addresses):
        networks = ", ".join(str(address.network) for address in addresses) or "no address at all"
        return f"is not reachable: the interface has {networks}; give a gateway or an address of the same network"
    return None


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
