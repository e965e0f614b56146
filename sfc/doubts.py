"""What is legal in a chain, but doubtful: said as a warning, never refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from sfc.chain import Chain, InterfaceRef, chain_of
from sfc.segment import distinct_segments
from sfc.validation import problems


def warnings(obj: Mapping[str, Any]) -> tuple[str, ...]:
    """What is legal but doubtful in a chain without problems."""
    chain = chain_of(obj)
    return (
        *_unlinked(chain),
        *_edge_addresses(chain),
        *_mtu_differences(chain),
        *_strangers(chain),
        *_one_slice(chain),
    )


def update_warnings(old: object, new: Mapping[str, Any]) -> tuple[str, ...]:
    """What a change means for replicas that already run. `new` is without problems.

    Nothing is immutable: every part of a chain can be changed by rolling the stage out anew, and refusing would only
    make the user delete the chain, which unwires all of it. What running replicas do not follow is said instead.
    """
    if not isinstance(old, dict) or problems(old):
        return ()
    before = {stage.name: stage.interfaces for stage in chain_of(old).stages}
    return tuple(
        f'stage "{stage.name}": running pods keep the interfaces, addresses, MACs, MTUs, routes and source ports they '
        "were created with; roll its workload out anew (kubectl rollout restart) for the change to take effect"
        for stage in chain_of(new).stages
        if before.get(stage.name, stage.interfaces) != stage.interfaces
    )


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


def _one_slice(chain: Chain) -> Iterator[str]:
    for stage in chain.stages:
        if stage.slices == 1:
            yield (
                f'stage "{stage.name}" has one slice of source ports, so one replica at a time: a rolling update that '
                "adds a pod before it removes one (maxUnavailable 0) never ends; give two slices or more"
            )


def _mtu_differences(chain: Chain) -> Iterator[str]:
    for ends in chain.links:
        mtus = [interface.mtu for ref in ends if (interface := chain.interface(ref))]
        if len(set(mtus)) > 1:
            said = ", ".join(f"{ref} {mtu or 'the default'}" for ref, mtu in zip(ends, mtus, strict=True))
            yield f"the ends of a link differ in MTU ({said}): larger frames will be lost; give both the same"


def _strangers(chain: Chain) -> Iterator[str]:
    """Interfaces that share no network with anyone on their segment: legal with routes, mostly a typing error."""
    for segment in distinct_segments(chain):
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
