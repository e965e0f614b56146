"""What belongs to one session, link by link: where that cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sfc.chain import Chain, CrossConnection, InterfaceRef, Side
from sfc.validation.problem import MISSING, Problem, shown


def session_key_problems(chain: Chain, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    """Links whose ends name two keys, stages whose links disagree, and keys under which replicas' sessions collide.

    `paths` has the path of each interface in the object. Interfaces that it does not have are left out.
    """
    for connection in chain.cross_connections:
        if connection.upstream in paths and connection.downstream in paths:
            yield from _two_keys(chain, connection, paths)
            yield from _ports_left_out(chain, connection, paths)
    yield from _disagreeing(chain, paths)


def session_key_warnings(chain: Chain) -> Iterator[str]:
    """Each a sentence without a full stop."""
    for connection in chain.cross_connections:
        yield from _one_sender(chain, connection)
    yield from _translating(chain)


def _two_keys(chain: Chain, connection: CrossConnection, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    up, down = (interface for side in Side if (interface := chain.interface(connection.end(side))))
    if up.session_key and down.session_key and up.session_key != down.session_key:
        yield Problem(
            f"{paths[connection.downstream]}.sessionKey",
            down.session_key,
            f"{connection.upstream} has sessionKey {up.session_key}, but both are ends of one link; give both the "
            "same, or leave one out",
        )


def _ports_left_out(chain: Chain, connection: CrossConnection, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    for ref in (connection.upstream, connection.downstream):
        interface = chain.interface(ref)
        if interface and interface.slices and connection.session_key.joins_flows:
            yield Problem(
                f"{paths[ref]}.sourcePorts",
                MISSING,
                f"the link of {ref} goes by {connection.session_key}, which leaves ports out: replicas with ports of "
                "their own would still share one session, and answers would reach the wrong one; give this interface "
                "sessionKey flow, or remove its sourcePorts",
            )


def _disagreeing(chain: Chain, paths: Mapping[InterfaceRef, str]) -> Iterator[Problem]:
    for stage in chain.stages:
        if not stage.transparent:
            continue
        links = [attached[0] for i in stage.interfaces if (attached := chain.attachments.get((stage.name, i.name)))]
        for link in links[1:]:
            first = links[0]
            ref = link.upstream if link.upstream.stage == stage.name else link.downstream
            if link.session_key != first.session_key and ref in paths:
                yield Problem(
                    f"{paths[ref]}.sessionKey",
                    MISSING,
                    f"the link of {ref} goes by {link.session_key}, another one of stage {shown(stage.name)} by "
                    f"{first.session_key} ({first.upstream} to {first.downstream}); the stage has no addresses, so it "
                    "changes no packet, and the two directions of a session would reach two of its replicas; give all "
                    "its links the same sessionKey",
                )


def _one_sender(chain: Chain, connection: CrossConnection) -> Iterator[str]:
    """Replicas of a stage have the same addresses. A stage that others route through sends from those of others."""
    ref = connection.upstream
    interface = chain.interface(ref)
    if not connection.session_key.joins_flows or not interface or not interface.addresses:
        return
    own = {address.rpartition("/")[0] for address in interface.addresses}
    others = (chain.interface(other) for other in chain.segment(ref) - {ref})
    if not any(route.gw in own for other in others if other for route in other.routes):
        yield (
            f"{ref} sends from its own addresses (no route of its segment leads through it), and its link goes by "
            f"{connection.session_key}: what two of its replicas open may be one session, and answers reach one of "
            "them; give the link sessionKey flow, unless the stage has one replica"
        )


def _translating(chain: Chain) -> Iterator[str]:
    for stage in chain.stages:
        links = [attached[0] for i in stage.interfaces if (attached := chain.attachments.get((stage.name, i.name)))]
        keys = sorted({link.session_key for link in links})
        if not stage.transparent and len(keys) > 1 and not stage.slices:
            yield (
                f"stage {shown(stage.name)} is between links that go by {' and by '.join(keys)}: right if it "
                "translates addresses or ends connections (then give it sourcePorts); if it only routes, the two "
                "directions of a session reach two of its replicas, and all its links need the same sessionKey"
            )
