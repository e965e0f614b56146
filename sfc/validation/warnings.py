"""What is legal in a chain but probably a mistake. It is never refused; the user gets a warning."""

from __future__ import annotations

from collections.abc import Iterator

from sfc import ip
from sfc.chain import Chain, Stage
from sfc.validation.problem import shown
from sfc.validation.segment import apart, distinct_segments
from sfc.validation.session_key import session_key_warnings

Placed = tuple[str, ip.Network]
"""The name of an interface, and a network of it."""


def warnings(chain: Chain) -> tuple[str, ...]:
    """Each a sentence without a full stop."""
    return (
        *_unlinked(chain),
        *_edge_addresses(chain),
        *_mtu_differences(chain),
        *_strangers(chain),
        *_overlaps(chain),
        *_one_slice(chain),
        *session_key_warnings(chain),
    )


def _unlinked(chain: Chain) -> Iterator[str]:
    linked = {ref for pair in chain.links for ref in pair}
    for ref, _ in chain.interfaces():
        if ref not in linked:
            yield f"{ref} is in no link and will carry no traffic; add it to spec.links, or remove it"


def _edge_addresses(chain: Chain) -> Iterator[str]:
    for ref, interface in chain.interfaces():
        for address in map(ip.interface, interface.addresses):
            network = address.network
            if address.version == 4 and network.num_addresses > 2 and address.ip in (network[0], network[-1]):
                yield (
                    f"{ref}: {address} is the network's own or its broadcast address, which many systems do not "
                    "answer; choose an address between them"
                )


def _one_slice(chain: Chain) -> Iterator[str]:
    for stage in chain.stages:
        if stage.shares and stage.shares.count == 1:
            what, several = ("slice of source ports", "slices") if stage.slices else ("replica number", "numbers")
            yield (
                f"stage {shown(stage.name)} has one {what}, so one replica at a time: a rolling update that adds a pod "
                f"before it removes one (maxUnavailable 0) never ends; give two {several} or more"
            )


def _mtu_differences(chain: Chain) -> Iterator[str]:
    for ends in chain.links:
        interfaces = [interface for ref in ends if (interface := chain.interface(ref))]
        mtus = [interface.mtu for interface in interfaces]
        if len({interface.meant.mtu for interface in interfaces}) > 1:
            said = ", ".join(f"{ref} {mtu or 'the default'}" for ref, mtu in zip(ends, mtus, strict=True))
            yield f"the ends of a link differ in MTU ({said}): larger frames will be lost; give both the same"


def _strangers(chain: Chain) -> Iterator[str]:
    """Interfaces that share no network with any other of their segment: legal with routes, mostly a typing error."""
    for segment in distinct_segments(chain):
        networks = {
            ref: {ip.interface(a).network for a in interface.addresses}
            for ref in sorted(segment)
            if (interface := chain.interface(ref)) and interface.addresses
        }
        for ref, own in apart(networks):
            said = ", ".join(sorted(map(str, own)))
            yield f"{ref} ({said}) shares no network with the others of its segment; check the addresses"


def _overlaps(chain: Chain) -> Iterator[str]:
    """The kernel routes addresses that are in both networks through only one of the interfaces."""
    for stage in chain.stages:
        for one, other in _overlapping(stage):
            yield (
                f"stage {shown(stage.name)}: the networks of its interfaces {one[0]} ({one[1]}) and {other[0]} "
                f"({other[1]}) overlap, its replicas reach only one of them; give them different networks"
            )


def _overlapping(stage: Stage) -> Iterator[tuple[Placed, Placed]]:
    """Networks of two interfaces that overlap: each network with the first one that it lies in, not with all of them.

    Of two networks that overlap, one lies in the other. Sorted, a network comes before those that lie in it.
    """
    networks = [(i.name, ip.interface(a).network) for i in stage.interfaces for a in i.addresses]
    around: list[Placed] = []
    for name, network in sorted(networks, key=lambda placed: (placed[1].version, placed[1])):
        while around and not around[-1][1].overlaps(network):
            around.pop()
        if outer := next((placed for placed in around if placed[0] != name), None):
            yield outer, (name, network)
        around.append((name, network))
