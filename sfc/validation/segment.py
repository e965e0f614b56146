"""What is wrong between the interfaces of one segment: one layer-2 domain, across links and transparent stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain as joined
from typing import TypeVar

from sfc import ip
from sfc.chain import Chain, Interface, InterfaceRef
from sfc.validation.problem import MISSING, Problem

Ends = list[tuple[InterfaceRef, Interface]]
T = TypeVar("T")


def segment_problems(chain: Chain, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    """Addresses and MACs that a segment has twice, and interfaces without a common address family.

    `paths` has the path of each interface in the object. Interfaces that it does not have are left out.
    """
    place = {ref: i for i, ref in enumerate(paths)}
    for segment in distinct_segments(chain):
        refs = sorted(segment & place.keys(), key=place.__getitem__)
        members = [(ref, interface) for ref in refs if (interface := chain.interface(ref))]
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


def apart(sets: Mapping[InterfaceRef, set[T]]) -> Iterator[tuple[InterfaceRef, set[T]]]:
    """Interfaces whose set has nothing in common with that of any other: the interface and its set.

    None where there is only one interface.
    """
    owners = Counter(joined.from_iterable(sets.values()))
    if len(sets) > 1:
        yield from ((ref, own) for ref, own in sets.items() if all(owners[element] == 1 for element in own))


def _addresses_twice(members: Ends, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    owner: dict[object, InterfaceRef] = {}
    for ref, interface in members:
        for i, address in enumerate(interface.addresses):
            host = ip.interface(address).ip
            if host in owner:
                yield Problem(
                    f"{paths[ref]}.addresses[{i}]",
                    address,
                    f"{owner[host]} has this address already, on the same segment as {ref}; "
                    "only replicas of one stage share an address, give one of the two another",
                )
            owner.setdefault(host, ref)


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
    families = {ref: {ip.interface(a).version for a in i.addresses} for ref, i in members if i.addresses}
    for ref, own in apart(families):
        others = {4, 6} - own
        yield Problem(
            f"{paths[ref]}.addresses",
            MISSING,
            f"{ref} has only {_family_names(own)}, the others of its segment only {_family_names(others)}; "
            "give both ends of a link addresses of one family",
        )


def _family_names(families: Iterable[int]) -> str:
    return " and ".join(f"IPv{version}" for version in sorted(families))
