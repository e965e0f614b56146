"""What is legal in a chain but probably a mistake. It is never refused; the user gets a warning."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from sfc.chain import Chain, chain_of
from sfc.validation.problem import shown
from sfc.validation.segment import apart, distinct_segments


def warnings(obj: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings for a ServiceFunctionChain object without problems, each a sentence without a full stop."""
    chain = chain_of(obj)
    return (
        *_unlinked(chain),
        *_edge_addresses(chain),
        *_mtu_differences(chain),
        *_strangers(chain),
        *_overlaps(chain),
        *_one_slice(chain),
    )


def _unlinked(chain: Chain) -> Iterator[str]:
    linked = {ref for pair in chain.links for ref in pair}
    for ref, _ in chain.interfaces():
        if ref not in linked:
            yield f"{ref} is in no link and will carry no traffic; add it to spec.links, or remove it"


def _edge_addresses(chain: Chain) -> Iterator[str]:
    for ref, interface in chain.interfaces():
        for address in map(ipaddress.ip_interface, interface.addresses):
            network = address.network
            if address.version == 4 and network.num_addresses > 2 and address.ip in (network[0], network[-1]):
                yield (
                    f"{ref}: {address} is the network's own or its broadcast address, which many systems do not "
                    "answer; choose an address between them"
                )


def _one_slice(chain: Chain) -> Iterator[str]:
    for stage in chain.stages:
        if stage.slices == 1:
            yield (
                f"stage {shown(stage.name)} has one slice of source ports, so one replica at a time: a rolling update "
                "that adds a pod before it removes one (maxUnavailable 0) never ends; give two slices or more"
            )


def _mtu_differences(chain: Chain) -> Iterator[str]:
    for ends in chain.links:
        mtus = [interface.mtu for ref in ends if (interface := chain.interface(ref))]
        if len(set(mtus)) > 1:
            said = ", ".join(f"{ref} {mtu or 'the default'}" for ref, mtu in zip(ends, mtus, strict=True))
            yield f"the ends of a link differ in MTU ({said}): larger frames will be lost; give both the same"


def _strangers(chain: Chain) -> Iterator[str]:
    """Interfaces that share no network with any other of their segment: legal with routes, mostly a typing error."""
    for segment in distinct_segments(chain):
        networks = {
            ref: {ipaddress.ip_interface(a).network for a in interface.addresses}
            for ref in sorted(segment)
            if (interface := chain.interface(ref)) and interface.addresses
        }
        for ref, own, _ in apart(networks):
            said = ", ".join(sorted(map(str, own)))
            yield f"{ref} ({said}) shares no network with the others of its segment; check the addresses"


def _overlaps(chain: Chain) -> Iterator[str]:
    """The kernel routes addresses that are in both networks through only one of the interfaces."""
    for stage in chain.stages:
        networks = [(i.name, ipaddress.ip_interface(a).network) for i in stage.interfaces for a in i.addresses]
        for (one, network), (other, overlapping) in itertools.combinations(networks, 2):
            if one != other and network.overlaps(overlapping):
                yield (
                    f"stage {shown(stage.name)}: the networks of its interfaces {one} ({network}) and {other} "
                    f"({overlapping}) overlap, its replicas reach only one of them; give them different networks"
                )
