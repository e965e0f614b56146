"""What is wrong with a ServiceFunctionChain object: every problem at once, each with field, value and remedy.

The schema and the CEL rules of the CRD refuse the simplest mistakes earlier. These checks are complete: admission and
every reader of a chain use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import groupby, islice, pairwise
from typing import Any

from sfc import ip
from sfc.chain import Chain, InterfaceRef, Patience
from sfc.reading import chain_of
from sfc.validation import fault
from sfc.validation.problem import MISSING, Checks, Json, Node, Problem, bare, listing, named, optional, shown, sound
from sfc.validation.segment import segment_problems
from sfc.validation.session_key import session_key_problems

MAX_NAMED = 10
"""Most names that a message offers instead of a wrong one."""

Known = Mapping[str, list[str]]
"""Names of the interfaces of each stage."""


class InvalidChain(Exception):  # noqa: N818
    """A ServiceFunctionChain object has problems. The message lists them."""

    def __init__(self, found: tuple[Problem, ...]) -> None:
        super().__init__(listing(found))


def problems(obj: object) -> tuple[Problem, ...]:
    """Everything that is wrong with an object, which may be any JSON; empty when `chain_of` can read it."""
    return tuple(_chain(Node("", obj)))


def parse(obj: Mapping[str, Any]) -> Chain:
    """The chain that the object describes. Raises InvalidChain with all problems."""
    if found := problems(obj):
        raise InvalidChain(found)
    return chain_of(obj)


# --- the object, top down ---------------------------------------------------------------------------------------------


def _chain(root: Node) -> Iterator[Problem]:
    top = yield from root.mapping()
    metadata = yield from top["metadata"].mapping()
    spec = yield from top["spec"].mapping()
    for key in ("namespace", "name"):
        yield from sound([metadata[key]], fault.label)
    yield from optional(spec, "trafficDistribution", fault.distribution)
    session_key = yield from optional(spec, "sessionKey", fault.session_key)
    drain = yield from _drain(spec)
    yield from _idle(drain)
    elements = yield from spec["stages"].elements(2, fault.MAX_STAGES, "the stages that traffic visits, in order")
    stages = yield from named(elements, _stage, "stage")
    links = yield from _links(spec, elements, stages)
    chain = chain_of(
        {"metadata": {"namespace": "", "name": ""}, "spec": {"stages": stages, "links": links, **session_key}}
    )
    paths = {ref: path for stage in stages for ref, path in stage["paths"].items()}
    yield from segment_problems(chain, paths)
    yield from session_key_problems(chain, paths)


def _stage(node: Node) -> Checks[Json | None]:
    node = yield from node.mapping()
    yield from sound([node["name"]], fault.label)
    yield from optional(node, "publishNotReadyAddresses", fault.flag)
    yield from optional(node, "replicaNumbers", fault.replica_numbers)
    yield from _drain(node)
    elements = yield from node["interfaces"].elements(1, fault.MAX_INTERFACES, "the stage's data interfaces")
    interfaces = yield from named(elements, _interface, "interface of a stage")
    yield from _routes_twice(elements)
    yield from _slices_twice(elements)
    yield from _numbers_twice(node["replicaNumbers"], elements)
    name = node["name"].value
    if not isinstance(name, str) or not interfaces:
        return None
    paths = {InterfaceRef(name, i["name"]): i["path"] for i in interfaces}
    return {"name": name, "interfaces": interfaces, "paths": paths}


def _interface(node: Node) -> Checks[Json | None]:
    node = yield from node.mapping()
    yield from sound([node["name"]], fault.interface_name)
    addresses: list[str] = []
    if "addresses" in node:
        elements = yield from node["addresses"].elements(
            0, fault.MAX_ADDRESSES, "addresses with prefix, as 10.1.0.1/24"
        )
        addresses = yield from sound(elements, fault.address)
    mac = yield from optional(node, "mac", fault.mac)
    ipv6 = any(":" in address for address in addresses)
    mtu = yield from optional(node, "mtu", lambda value: fault.mtu(value, ipv6))
    if "routes" in node:
        elements = yield from node["routes"].elements(0, fault.MAX_ROUTES, "routes, as {dst: 0.0.0.0/0, gw: 10.1.0.1}")
        own = [ip.interface(address) for address in addresses]
        for element in elements:
            yield from _route(element, own)
    ports = {}
    yield from optional(node, "rawFrames", fault.flag)
    if "sourcePorts" in node:
        source_ports = yield from node["sourcePorts"].mapping()
        for slices in (yield from sound([source_ports["slices"]], fault.slices)):
            ports["sourcePorts"] = {"slices": slices}
    session_key = yield from optional(node, "sessionKey", fault.session_key)
    name = node["name"].value
    if not isinstance(name, str):
        return None
    return {"name": name, "addresses": addresses, **mac, **mtu, **ports, **session_key, "path": node.path}


def _drain(node: Node) -> Checks[Node]:
    drain = node["drain"]
    if drain.value is MISSING:
        return Node(drain.path, {})
    drain = yield from drain.mapping()
    yield from optional(drain, "deadlineSeconds", fault.deadline)
    yield from optional(drain, "hook", fault.hook)
    yield from optional(drain, "atDeadline", fault.at_deadline)
    return drain


def _idle(drain: Node) -> Iterator[Problem]:
    if "idle" in drain:
        idle = yield from drain["idle"].mapping()
        for kind in fields(Patience):
            yield from optional(idle, kind.name, fault.idle)


def _route(node: Node, addresses: list[ip.Interface]) -> Iterator[Problem]:
    node = yield from node.mapping()
    dst = yield from sound([node["dst"]], fault.destination)
    if "gw" in node:
        gateway = yield from sound([node["gw"]], fault.gateway)
        if dst and gateway:
            message = fault.gateway_mismatch(ip.network(dst[0]), ip.address(gateway[0]), addresses)
            if message:
                yield node["gw"].problem(message)


def _routes_twice(interfaces: list[Node]) -> Iterator[Problem]:
    """The kernel has one route for each destination; adding a second one would fail when the pod starts."""
    seen: dict[ip.Network, str] = {}
    for interface in interfaces:
        for route in interface["routes"]:
            dst = route["dst"]
            if fault.destination(dst.value):
                continue
            first = seen.setdefault(ip.network(dst.value), route.path)
            if first != route.path:
                yield dst.problem(f"is the destination of {first} already; remove one of them")


def _slices_twice(interfaces: list[Node]) -> Iterator[Problem]:
    """A pod has one setting for the ports of all its sockets (net.ipv4.ip_local_port_range)."""
    nodes = [interface["sourcePorts"]["slices"] for interface in interfaces]
    numbers = [node for node in nodes if not fault.slices(node.value)]
    for node in numbers[1:]:
        first = numbers[0]
        if node.value != first.value:
            yield node.problem(
                f"differs from {first.path}, which is {first.value}: a replica has one range of ports for all its "
                "interfaces; give both the same number"
            )


def _numbers_twice(numbers: Node, interfaces: list[Node]) -> Iterator[Problem]:
    """A slice has a number already."""
    for slices in (interface["sourcePorts"]["slices"] for interface in interfaces):
        if not (fault.replica_numbers(numbers.value) or fault.slices(slices.value)) and numbers.value != slices.value:
            yield numbers.problem(
                f"differs from {slices.path}, which is {slices.value}: a replica's number is that of its slice; leave "
                "replicaNumbers out, or give the same number"
            )
            return


# --- links ------------------------------------------------------------------------------------------------------------


def _links(spec: Node, elements: list[Node], stages: list[Json]) -> Checks[list[list[str]]]:
    """The links without problems as pairs of `stage.interface`; those between consecutive stages if none are given."""
    if "links" not in spec:
        yield from _used_on_both_sides(elements)
        return [
            [f"{up['name']}.{up['interfaces'][-1]['name']}", f"{down['name']}.{down['interfaces'][0]['name']}"]
            for up, down in pairwise(stages)
        ]
    nodes = yield from spec["links"].elements(
        0, fault.MAX_LINKS, 'pairs of interfaces, as ["nat.outside", "server.wan"]'
    )
    used: dict[str, str] = {}
    known = {stage["name"]: [i["name"] for i in stage["interfaces"]] for stage in stages}
    group = {stage["name"]: stage["name"] for stage in stages}
    kept = []
    for node in nodes:
        pair = yield from _link(node, known, used)
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


def _used_on_both_sides(elements: list[Node]) -> Iterator[Problem]:
    for node in elements[1:-1]:
        if len(list(node["interfaces"])) == 1:
            yield node["interfaces"].problem(
                "the stage lies between two others but has one interface, which cannot be in two links; "
                "give it a second interface, or list the links in spec.links"
            )


def _link(node: Node, known: Known, used: dict[str, str]) -> Checks[list[str] | None]:
    pair = node.value
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(end, str) for end in pair):
        yield node.problem('must be two interfaces, as ["nat.outside", "server.wan"]')
        return None
    faulty = False
    for i, end in enumerate(pair):
        message = _end_fault(end, known) or _taken(used.setdefault(end, node.path), node.path, end)
        if message:
            faulty = True
            yield Problem(f"{node.path}[{i}]", end, message)
    if faulty:
        return None
    if pair[0].partition(".")[0] == pair[1].partition(".")[0]:
        yield node.problem(f"{pair[0]} and {pair[1]} belong to the same stage; join two different stages")
        return None
    return pair


def _end_fault(end: str, known: Known) -> str | None:
    stage, dot, interface = end.partition(".")
    if not dot:
        return "must be stage.interface, as nat.outside"
    if stage not in known:
        return f"there is no stage {shown(stage)}; the stages are {_few(known)}"
    if interface not in known[stage]:
        return f"stage {shown(stage)} has no interface {shown(interface)}; it has {_few(known[stage])}"
    return None


def _few(names: Iterable[str]) -> str:
    """The first of the names, as a message has them."""
    first = [bare(name) for name in islice(names, MAX_NAMED + 1)]
    return ", ".join(first[:MAX_NAMED]) + (", …" if len(first) > MAX_NAMED else "")


def _taken(first: str, here: str, end: str) -> str | None:
    return (
        None
        if first == here
        else f"is in {first} already; an interface can be in one link only, add an interface to the stage"
    )


def _unconnected(links: Node, group: dict[str, str]) -> Iterator[Problem]:
    parts = [
        list(names) for _, names in groupby(sorted(group, key=lambda n: _root(group, n)), lambda n: _root(group, n))
    ]
    if len(parts) > 1:
        apart = "; ".join(", ".join(map(bare, part)) for part in parts)
        yield links.problem(
            f"leave the chain in {len(parts)} parts ({apart}); add the links that join them, or leave links out"
        )


def _root(group: dict[str, str], name: str) -> str:
    while group[name] != name:
        group[name] = group[group[name]]  # halves the way for the next one
        name = group[name]
    return name
