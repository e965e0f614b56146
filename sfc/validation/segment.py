"""What is wrong between the interfaces of one segment: one layer-2 domain, across links and transparent stages."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from sfc.chain import Chain, Interface, InterfaceRef
from sfc.validation.problem import MISSING, Problem

Ends = list[tuple[InterfaceRef, Interface]]
T = TypeVar("T")


def segment_problems(chain: Chain, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    """Addresses and MACs that a segment has twice, and interfaces without a common address family.

    `paths` has the path of each interface in the object. Interfaces that it does not have are left out.
    """
    for segment in distinct_segments(chain):
        members = [(ref, interface) for ref in paths if ref in segment and (interface := chain.interface(ref))]
        yield from _addresses_twice(members, paths)
        yield from _macs_twice(members, paths)
        yield from _families(members, paths)


def distinct_segments(chain: Chain) -> Iterator[frozenset[InterfaceRef]]:
    """Every segment of the chain once."""
    seen: set[InterfaceRef] = set()
    for ref, _ in chain.interfaces():
        if ref not in seen:
            segment = chain.segment(ref)
            seen |= segment
            yield segment


def apart(sets: Mapping[InterfaceRef, set[T]]) -> Iterator[tuple[InterfaceRef, set[T], set[T]]]:
    """Interfaces whose set has nothing in common with that of any other: the interface, its set, all that others have.

    None where there is only one interface.
    """
    for ref, own in sets.items():
        others = [theirs for other, theirs in sets.items() if other != ref]
        if others and not any(own & theirs for theirs in others):
            yield ref, own, set().union(*others)


def _addresses_twice(members: Ends, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
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


def _macs_twice(members: Ends, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    owner: dict[str, InterfaceRef] = {}
    for ref, interface in members:
        if owner.setdefault(interface.mac, ref) != ref:
            yield Problem(
                f"{paths[ref]}.mac",
                interface.mac,
                f"{owner[interface.mac]} has this MAC already, on the same segment as {ref}; "
                "only replicas of one stage share a MAC, give another one, or leave mac out to have one derived",
            )


def _families(members: Ends, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    families = {ref: {ipaddress.ip_interface(a).version for a in i.addresses} for ref, i in members if i.addresses}
    for ref, own, others in apart(families):
        yield Problem(
            f"{paths[ref]}.addresses",
            MISSING,
            f"{ref} has only {_family_names(own)}, the others of its segment only {_family_names(others)}; "
            "give both ends of a link addresses of one family",
        )


def _family_names(families: Iterable[int]) -> str:
    return " and ".join(f"IPv{version}" for version in sorted(families))
