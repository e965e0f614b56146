"""What is wrong with a ServiceFunctionChain object: everything at once, each with field, value and remedy.

The CRD's schema and CEL rules refuse the simplest mistakes earlier; this is the whole truth, for admission and for
every reader of a chain. The input is hostile: any JSON value may stand anywhere, and nothing here raises on it.

A check is a generator: it yields the problems it finds and returns what remains of its input without the faulty
parts, so that the checks across parts (links, segments) still run on the rest.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, Final, TypeVar

from sfc.chain import Chain, Interface, InterfaceRef, chain_of

MAX_STAGES = 32
MAX_INTERFACES = 8
"""Of one stage."""
MAX_LINKS = 64
MAX_ADDRESSES = 8
"""Of one interface."""
MAX_ROUTES = 32
"""Of one interface."""
MAX_INTERFACE_NAME = 15
"""Characters; the kernel's IFNAMSIZ includes a terminating zero."""
MAX_DNS_LABEL = 63
MIN_MTU = 68
"""Bytes, RFC 791."""
MIN_MTU_IPV6 = 1280
"""Bytes, RFC 8200."""
MAX_MTU = 65535
MAX_DEADLINE_SECONDS = 3600
RESERVED_INTERFACES = {"lo": "the loopback interface", "eth0": "the cluster's own interface"}
MAX_SHOWN = 20
"""Problems written out in one message; the rest is counted."""

# A CrossConnection is named chain.stage.interface.stage.interface: with these limits at most 223 characters of the
# 253 that an object name may have.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NAME_RULE = "use lower-case letters, digits and '-', with a letter or digit first and last"
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
_DEFAULT_PREFIX = {4: 24, 6: 64}

Json = dict[str, Any]
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Problem:
    field: str
    """Path such as spec.stages[2].interfaces[0].addresses[0]."""
    value: object
    """What stands there; MISSING when nothing does."""
    message: str
    """What is wrong with it, and what to do."""

    def __str__(self) -> str:
        shown = "" if self.value is MISSING or isinstance(self.value, dict | list) else f"{_shown(self.value)}: "
        return f"{self.field}: {shown}{self.message}"


class InvalidChain(Exception):  # noqa: N818
    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(listing(problems))
        self.problems = problems


def problems(obj: object) -> tuple[Problem, ...]:
    """Everything that is wrong with a ServiceFunctionChain object; empty when `chain_of` can read it."""
    return tuple(_chain(_Node("", obj)))


def parse(obj: Mapping[str, Any]) -> Chain:
    """Raises InvalidChain with all problems."""
    if found := problems(obj):
        raise InvalidChain(found)
    return chain_of(obj)


def warnings(obj: Mapping[str, Any]) -> tuple[str, ...]:
    """What is legal but doubtful in a chain without problems."""
    chain = chain_of(obj)
    return (*_unlinked(chain), *_edge_addresses(chain), *_mtu_differences(chain), *_strangers(chain))


def update_warnings(old: object, new: Mapping[str, Any]) -> tuple[str, ...]:
    """What a change means for replicas that already run. `new` is without problems.

    Nothing is immutable: every part of a chain can be changed by rolling the stage out anew, and refusing would only
    make the user delete the chain, which unwires all of it. What running replicas do not follow is said instead.
    """
    if not isinstance(old, dict) or problems(old):
        return ()
    before = {stage.name: stage.interfaces for stage in chain_of(old).stages}
    return tuple(
        f'stage "{stage.name}": running pods keep the interfaces, addresses, MACs, MTUs and routes they were created '
        "with; roll its workload out anew (kubectl rollout restart) for the change to take effect"
        for stage in chain_of(new).stages
        if before.get(stage.name, stage.interfaces) != stage.interfaces
    )


def listing(found: Iterable[object]) -> str:
    """One problem on one line, several as a list."""
    lines = [str(problem) for problem in found]
    if len(lines) == 1:
        return lines[0]
    rest = [f"… and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return f"{len(lines)} problems:" + "".join(f"\n- {line}" for line in (*lines[:MAX_SHOWN], *rest))


# --- reading hostile JSON ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Node:
    """A place in the object and what stands there."""

    path: str
    value: Any

    def __getitem__(self, key: str) -> _Node:
        return _Node(f"{self.path}.{key}".lstrip("."), self.value.get(key, MISSING))

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def problem(self, message: str) -> Problem:
        return Problem(self.path or "object", self.value, message)

    def mapping(self) -> Checks[_Node]:
        """Itself, or an empty mapping in its place."""
        if isinstance(self.value, dict):
            return self
        yield self.problem("is required" if self.value is MISSING else "must be an object")
        return replace(self, value={})

    def elements(self, least: int, most: int, what: str) -> Checks[list[_Node]]:
        """Its elements, or none; a list beyond the quota is reported, and read as far as the quota."""
        if not isinstance(self.value, list):
            yield self.problem(f"is required: {what}" if self.value is MISSING else f"must be a list: {what}")
            return []
        if len(self.value) < least:
            yield self.problem(f"has {len(self.value)} elements, needs {least} or more: {what}")
        if len(self.value) > most:
            yield self.problem(f"has {len(self.value)} elements, {most} are allowed: {what}")
        return [_Node(f"{self.path}[{i}]", value) for i, value in enumerate(self.value[:most])]


T = TypeVar("T")
Checks = Generator[Problem, None, T]
Fault = Callable[[Any], str | None]


def _sound(nodes: Iterable[_Node], fault: Fault) -> Checks[list[Any]]:
    """The values without fault."""
    kept = []
    for node in nodes:
        if message := fault(node.value):
            yield node.problem(message)
        else:
            kept.append(node.value)
    return kept


def _optional(node: _Node, key: str, fault: Fault) -> Checks[Json]:
    """{key: value} when there is one without fault."""
    if key not in node:
        return {}
    values = yield from _sound([node[key]], fault)
    return {key: values[0]} if values else {}


def _named(nodes: Iterable[_Node], read: Callable[[_Node], Checks[Json | None]], what: str) -> Checks[list[Json]]:
    """Elements that have a name, the first of each name."""
    seen: dict[str, str] = {}
    kept = []
    for node in nodes:
        element = yield from read(node)
        if element is None:
            continue
        if element["name"] in seen:
            yield node["name"].problem(f"is the name of {seen[element['name']]} already; give each {what} its own name")
        else:
            seen[element["name"]] = node.path
            kept.append(element)
    return kept


# --- the object, top down ---------------------------------------------------------------------------------------------


def _chain(root: _Node) -> Iterator[Problem]:
    top = yield from root.mapping()
    metadata = yield from top["metadata"].mapping()
    spec = yield from top["spec"].mapping()
    for key in ("namespace", "name"):
        yield from _sound([metadata[key]], _label_fault)
    yield from _drain(spec)
    elements = yield from spec["stages"].elements(2, MAX_STAGES, "the stages that traffic visits, in order")
    stages = yield from _named(elements, _stage, "stage")
    links = yield from _links(spec, elements, stages)
    chain = chain_of({"metadata": {"namespace": "", "name": ""}, "spec": {"stages": stages, "links": links}})
    paths = {ref: path for stage in stages for ref, path in stage["paths"].items()}
    yield from _segments(chain, paths)


def _stage(node: _Node) -> Checks[Json | None]:
    node = yield from node.mapping()
    yield from _sound([node["name"]], _label_fault)
    yield from _drain(node)
    elements = yield from node["interfaces"].elements(1, MAX_INTERFACES, "the stage's data interfaces")
    interfaces = yield from _named(elements, _interface, "interface of a stage")
    yield from _routes_twice(elements)
    name = node["name"].value
    if not isinstance(name, str) or not interfaces:
        return None
    paths = {InterfaceRef(name, i["name"]): i["path"] for i in interfaces}
    return {"name": name, "interfaces": interfaces, "paths": paths}


def _interface(node: _Node) -> Checks[Json | None]:
    node = yield from node.mapping()
    yield from _sound([node["name"]], _interface_name_fault)
    addresses: list[str] = []
    if "addresses" in node:
        elements = yield from node["addresses"].elements(0, MAX_ADDRESSES, "addresses with prefix, as 10.1.0.1/24")
        addresses = yield from _sound(elements, _address_fault)
    mac = yield from _optional(node, "mac", _mac_fault)
    ipv6 = any(":" in address for address in addresses)
    mtu = yield from _optional(node, "mtu", lambda value: _mtu_fault(value, ipv6))
    if "routes" in node:
        elements = yield from node["routes"].elements(0, MAX_ROUTES, "routes, as {dst: 0.0.0.0/0, gw: 10.1.0.1}")
        for element in elements:
            yield from _route(element, [ipaddress.ip_interface(address) for address in addresses])
    name = node["name"].value
    if not isinstance(name, str):
        return None
    return {"name": name, "addresses": addresses, **mac, **mtu, "path": node.path}


def _drain(node: _Node) -> Iterator[Problem]:
    if "drain" in node:
        drain = yield from node["drain"].mapping()
        yield from _optional(drain, "deadlineSeconds", _deadline_fault)


def _route(node: _Node, addresses: list[IpInterface]) -> Iterator[Problem]:
    node = yield from node.mapping()
    dst = yield from _sound([node["dst"]], _destination_fault)
    if "gw" in node:
        gateway = yield from _sound([node["gw"]], _gateway_fault)
        if dst and gateway:
            message = _gateway_mismatch(ipaddress.ip_network(dst[0]), ipaddress.ip_address(gateway[0]), addresses)
            if message:
                yield node["gw"].problem(message)


def _routes_twice(interfaces: list[_Node]) -> Iterator[Problem]:
    """The kernel has one route per destination; a second one would fail when the pod starts."""
    seen: dict[str, str] = {}
    for interface in interfaces:
        routes = interface.value.get("routes") if isinstance(interface.value, dict) else None
        for i, route in enumerate(routes if isinstance(routes, list) else ()):
            dst = route.get("dst") if isinstance(route, dict) else None
            path = f"{interface.path}.routes[{i}]"
            if isinstance(dst, str) and seen.setdefault(dst, path) != path:
                yield Problem(f"{path}.dst", dst, f"is the destination of {seen[dst]} already; remove one of them")


# --- single values: what is wrong with one, or None -------------------------------------------------------------------


def _label_fault(value: object) -> str | None:
    if value is MISSING:
        return "is required"
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return f"is not a name; {_NAME_RULE}"
    if len(value) > MAX_DNS_LABEL:
        return f"has {len(value)} characters, {MAX_DNS_LABEL} are allowed (it is used as a label's value); shorten it"
    return None


def _interface_name_fault(value: object) -> str | None:
    if value is MISSING:
        return "is required"
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return f"is not an interface name; {_NAME_RULE}"
    if len(value) > MAX_INTERFACE_NAME:
        return f"has {len(value)} characters, the kernel allows {MAX_INTERFACE_NAME}; shorten it"
    if value in RESERVED_INTERFACES:
        return f"is {RESERVED_INTERFACES[value]} in every pod; choose another name"
    return None


def _address_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return "must be a string, as 10.1.0.1/24"
    address, slash, prefix = value.partition("/")
    try:
        ip = ipaddress.ip_address(address)
        if not slash:
            return f"has no prefix length; write {value}/{_DEFAULT_PREFIX[ip.version]}, or whatever its network has"
        if "%" in address or not _PREFIX.fullmatch(prefix):
            raise ValueError
        ipaddress.ip_interface(value)
    except ValueError:
        return "is not an address with prefix length; write it as 10.1.0.1/24 or 2001:db8::1/64"
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast:
        return "cannot be the address of an interface; give a unicast address"
    return None


def _mac_fault(value: object) -> str | None:
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        return "is not a MAC; write six bytes as 02:00:5e:10:00:01, or leave mac out to have one derived"
    if not int(value.replace(":", ""), 16):
        return "is the zero MAC; give another one, or leave mac out to have one derived"
    if int(value[:2], 16) & 1:
        return "is a multicast MAC (first byte is odd); give a unicast one, or leave mac out to have one derived"
    return None


def _mtu_fault(value: object, ipv6: bool) -> str | None:
    if not _is_integer(value, MIN_MTU, MAX_MTU):
        return f"is not an MTU; give bytes from {MIN_MTU} to {MAX_MTU}"
    if ipv6 and not _is_integer(value, MIN_MTU_IPV6, MAX_MTU):
        return f"is too small for IPv6, which needs {MIN_MTU_IPV6} (RFC 8200); raise it, or remove the IPv6 addresses"
    return None


def _deadline_fault(value: object) -> str | None:
    if _is_integer(value, 0, MAX_DEADLINE_SECONDS):
        return None
    return f"is not a deadline; give whole seconds from 0 to {MAX_DEADLINE_SECONDS}"


def _destination_fault(value: object) -> str | None:
    if value is MISSING:
        return "is required: the destination, as 0.0.0.0/0"
    address, slash, prefix = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        if not slash or "%" in address or not _PREFIX.fullmatch(prefix):
            raise ValueError
        network = ipaddress.ip_network(value, strict=False)  # type: ignore[arg-type]
    except ValueError:
        return "is not a destination; write it with prefix length, as 0.0.0.0/0 or 10.2.0.0/16"
    if ipaddress.ip_address(address) != network.network_address:
        return f"has bits set beyond its prefix; write {network}"
    return None


def _gateway_fault(value: object) -> str | None:
    try:
        if isinstance(value, str) and "%" not in value:
            ipaddress.ip_address(value)
            return None
    except ValueError:
        pass
    return "is not a gateway; write an address without prefix, as 10.1.0.1"


def _gateway_mismatch(
    destination: ipaddress.IPv4Network | ipaddress.IPv6Network,
    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address,
    addresses: list[IpInterface],
) -> str | None:
    if gateway.version != destination.version:
        return f"is IPv{gateway.version}, its destination {destination} is not; give both the same family"
    if any(gateway == address.ip for address in addresses):
        return "is the interface's own address; give the address of the next hop"
    if gateway.version == 6 and gateway.is_link_local:
        return None
    if not any(gateway in address.network for address in addresses if address.version == gateway.version):
        networks = ", ".join(str(address.network) for address in addresses) or "no address at all"
        return f"is not reachable: the interface has {networks}; give a gateway or an address of the same network"
    return None


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


# --- links ------------------------------------------------------------------------------------------------------------


def _links(spec: _Node, elements: list[_Node], stages: list[Json]) -> Checks[list[list[str]]]:
    """Pairs of `stage.interface` that may be used, whether written or implied by the order."""
    if "links" not in spec:
        yield from _used_on_both_sides(elements)
        return [
            [f"{up['name']}.{up['interfaces'][-1]['name']}", f"{down['name']}.{down['interfaces'][0]['name']}"]
            for up, down in pairwise(stages)
        ]
    nodes = yield from spec["links"].elements(0, MAX_LINKS, 'pairs of interfaces, as ["nat.outside", "server.wan"]')
    used: dict[str, str] = {}
    group = {stage["name"]: stage["name"] for stage in stages}
    kept = []
    for node in nodes:
        pair = yield from _link(node, stages, used)
        if pair is None:
            continue
        up, down = (_root(group, end.partition(".")[0]) for end in pair)
        if up == down:
            yield node.problem(
                f"{pair[0]} and {pair[1]} are joined already by other links, this one closes a loop; remove one"
            )
            continue
        group[up] = down
        kept.append(pair)
    if len(kept) == len(nodes):
        yield from _unconnected(spec["links"], group)
    return kept


def _used_on_both_sides(elements: list[_Node]) -> Iterator[Problem]:
    for node in elements[1:-1]:
        interfaces = node.value.get("interfaces") if isinstance(node.value, dict) else None
        if isinstance(interfaces, list) and len(interfaces) == 1:
            yield node["interfaces"].problem(
                "the stage lies between two others but has one interface, which cannot be in two links; "
                "give it a second interface, or say in spec.links what is joined"
            )


def _link(node: _Node, stages: list[Json], used: dict[str, str]) -> Checks[list[str] | None]:
    pair = node.value
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(end, str) for end in pair):
        yield node.problem('must be two interfaces, as ["nat.outside", "server.wan"]')
        return None
    faulty = False
    for i, end in enumerate(pair):
        message = _end_fault(end, stages) or _taken(used.setdefault(end, node.path), node.path, end)
        if message:
            faulty = True
            yield Problem(f"{node.path}[{i}]", end, message)
    if faulty:
        return None
    if pair[0].partition(".")[0] == pair[1].partition(".")[0]:
        yield node.problem(f"{pair[0]} and {pair[1]} belong to the same stage; join two different stages")
        return None
    return pair


def _end_fault(end: str, stages: list[Json]) -> str | None:
    stage, dot, interface = end.partition(".")
    if not dot:
        return "must be stage.interface, as nat.outside"
    known = {s["name"]: [i["name"] for i in s["interfaces"]] for s in stages}
    if stage not in known:
        return f"there is no stage {_shown(stage)}; the stages are {', '.join(map(_bare, known))}"
    if interface not in known[stage]:
        return (
            f"stage {_shown(stage)} has no interface {_shown(interface)}; it has {', '.join(map(_bare, known[stage]))}"
        )
    return None


def _taken(first: str, here: str, end: str) -> str | None:
    return (
        None
        if first == here
        else f"is in {first} already; an interface can be in one link only, add an interface to the stage"
    )


def _unconnected(links: _Node, group: dict[str, str]) -> Iterator[Problem]:
    parts = [
        list(names) for _, names in groupby(sorted(group, key=lambda n: _root(group, n)), lambda n: _root(group, n))
    ]
    if len(parts) > 1:
        apart = "; ".join(", ".join(map(_bare, part)) for part in parts)
        yield links.problem(
            f"leave the chain in {len(parts)} parts ({apart}); add the links that join them, or leave links out"
        )


def _root(group: dict[str, str], name: str) -> str:
    while group[name] != name:
        name = group[name]
    return name


# --- segments: interfaces of one layer-2 domain -----------------------------------------------------------------------


def _segments(chain: Chain, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    for segment in _distinct_segments(chain):
        members = [(ref, interface) for ref in paths if ref in segment and (interface := chain.interface(ref))]
        yield from _addresses_twice(members, paths)
        yield from _macs_twice(members, paths)
        yield from _families(members, paths)


def _distinct_segments(chain: Chain) -> Iterator[frozenset[InterfaceRef]]:
    seen: set[InterfaceRef] = set()
    for stage in chain.stages:
        for interface in stage.interfaces:
            if (ref := InterfaceRef(stage.name, interface.name)) not in seen:
                segment = chain.segment(ref)
                seen |= segment
                yield segment


Members = list[tuple[InterfaceRef, Interface]]


def _addresses_twice(members: Members, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    owner: dict[object, InterfaceRef] = {}
    for ref, interface in members:
        for i, address in enumerate(interface.addresses):
            ip = ipaddress.ip_interface(address).ip
            if ip in owner:
                yield Problem(
                    f"{paths[ref]}.addresses[{i}]",
                    address,
                    f"{owner[ip]} has this address already, on the same segment as {ref}; "
                    "only replicas of one stage share an address, give one of the two another",
                )
            owner.setdefault(ip, ref)


def _macs_twice(members: Members, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    owner: dict[str, InterfaceRef] = {}
    for ref, interface in members:
        if owner.setdefault(interface.mac, ref) != ref:
            yield Problem(
                f"{paths[ref]}.mac",
                interface.mac,
                f"{owner[interface.mac]} has this MAC already, on the same segment as {ref}; "
                "only replicas of one stage share a MAC, give another one, or leave mac out to have one derived",
            )


def _families(members: Members, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    families = {ref: {ipaddress.ip_interface(a).version for a in i.addresses} for ref, i in members if i.addresses}
    for ref, own in families.items():
        others = [theirs for other, theirs in families.items() if other != ref]
        if others and not any(own & theirs for theirs in others):
            yield Problem(
                f"{paths[ref]}.addresses",
                MISSING,
                f"{ref} has only {_family_names(own)}, the others of its segment only "
                f"{_family_names(set().union(*others))}; give both ends of a link addresses of one family",
            )


def _family_names(families: Iterable[int]) -> str:
    return " and ".join(f"IPv{version}" for version in sorted(families))


# --- doubtful things --------------------------------------------------------------------------------------------------


def _unlinked(chain: Chain) -> Iterator[str]:
    linked = {ref for pair in chain.links for ref in pair}
    for stage in chain.stages:
        for interface in stage.interfaces:
            if (ref := InterfaceRef(stage.name, interface.name)) not in linked:
                yield f"{ref} is in no link and will carry no traffic; add it to spec.links, or remove it"


def _edge_addresses(chain: Chain) -> Iterator[str]:
    for stage in chain.stages:
        for interface in stage.interfaces:
            for address in map(ipaddress.ip_interface, interface.addresses):
                network = address.network
                if address.version == 4 and network.num_addresses > 2 and address.ip in (network[0], network[-1]):
                    yield (
                        f"{stage.name}.{interface.name}: {address} is the network's own or its broadcast address, "
                        "which many systems do not answer; choose an address between them"
                    )


def _mtu_differences(chain: Chain) -> Iterator[str]:
    for ends in chain.links:
        mtus = [interface.mtu for ref in ends if (interface := chain.interface(ref))]
        if len(set(mtus)) > 1:
            said = ", ".join(f"{ref} {mtu or 'the default'}" for ref, mtu in zip(ends, mtus, strict=True))
            yield f"the ends of a link differ in MTU ({said}): larger frames will be lost; give both the same"


def _strangers(chain: Chain) -> Iterator[str]:
    """Interfaces that share no network with anyone on their segment: legal with routes, mostly a typing error."""
    for segment in _distinct_segments(chain):
        networks = {
            ref: {ipaddress.ip_interface(a).network for a in interface.addresses}
            for ref in sorted(segment)
            if (interface := chain.interface(ref)) and interface.addresses
        }
        for ref, own in networks.items():
            others = [theirs for other, theirs in networks.items() if other != ref]
            if others and not any(own & theirs for theirs in others):
                said = ", ".join(sorted(map(str, own)))
                yield f"{ref} ({said}) shares no network with the others of its segment; check the addresses"


def _shown(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _bare(name: str) -> str:
    return _shown(name).strip('"')
