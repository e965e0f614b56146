"""From a ServiceFunctionChain object, as JSON, to the chain.

`chain_of` needs an object without problems (`sfc.validation.checks.problems`). A reader of stored objects calls
`sfc.validation.checks.parse` instead, which checks first.

Addresses and MACs get the one way of writing that this project has for a value, so that nobody who compares a chain's
text takes `FD50:0::1/64` for another address than `fd50::1/64`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sfc import ip, names
from sfc.chain import (
    PREFER_SAME_NODE,
    AtDeadline,
    Chain,
    Hook,
    Interface,
    InterfaceRef,
    Patience,
    Route,
    SessionKey,
    Stage,
    derived_mac,
)


def chain_of(obj: Mapping[str, Any]) -> Chain:
    """The chain that a ServiceFunctionChain object (as JSON) describes. The object must be without problems."""
    metadata, spec = obj["metadata"], obj["spec"]
    namespace, name = metadata["namespace"], metadata["name"]
    idle = spec.get("drain", {}).get("idle", {})
    stages = tuple(_stage(namespace, name, stage, spec.get("drain", {})) for stage in spec["stages"])
    return Chain(
        namespace=namespace,
        name=name,
        uid=metadata.get("uid", ""),
        stages=stages,
        links=_links(spec.get("links"), stages),
        patience=Patience(**{each.name: idle.get(each.name, 0) for each in fields(Patience)}),
        session_key=SessionKey(spec.get("sessionKey", SessionKey.FLOW)),
        prefers_same_node=spec.get("trafficDistribution") == PREFER_SAME_NODE,
        created=metadata.get("creationTimestamp") or "",
    )


def _stage(namespace: str, chain: str, stage: Mapping[str, Any], chain_drain: Mapping[str, Any]) -> Stage:
    drain = {**chain_drain, **stage.get("drain", {})}
    return Stage(
        name=stage["name"],
        interfaces=tuple(
            Interface(
                name=i["name"],
                mac=i.get("mac", "").lower() or derived_mac(namespace, chain, stage["name"], i["name"]),
                addresses=tuple(str(ip.interface(a)) for a in i.get("addresses", ())),
                mtu=i.get("mtu"),
                routes=tuple(_route(r) for r in i.get("routes", ())),
                slices=i.get("sourcePorts", {}).get("slices"),
                session_key=SessionKey(i["sessionKey"]) if "sessionKey" in i else None,
                raw_frames=i.get("rawFrames", False),
            )
            for i in stage["interfaces"]
        ),
        drain_deadline_seconds=drain.get("deadlineSeconds", names.DEFAULT_DRAIN_DEADLINE_SECONDS),
        drain_hook=Hook(drain.get("hook", Hook.AUTO)),
        at_deadline=AtDeadline(drain.get("atDeadline", AtDeadline.MOVE)),
        replica_numbers=stage.get("replicaNumbers"),
        publish_not_ready=stage.get("publishNotReadyAddresses", False),
    )


def _route(route: Mapping[str, Any]) -> Route:
    return Route(dst=str(ip.network(route["dst"])), gw=str(ip.address(route["gw"])) if "gw" in route else None)


def _links(links: list[list[str]] | None, stages: tuple[Stage, ...]) -> tuple[tuple[InterfaceRef, InterfaceRef], ...]:
    if links is None:
        return tuple(
            (InterfaceRef(up.name, up.interfaces[-1].name), InterfaceRef(down.name, down.interfaces[0].name))
            for up, down in itertools.pairwise(stages)
        )
    return tuple((_ref(up), _ref(down)) for up, down in links)


def _ref(text: str) -> InterfaceRef:
    stage, _, interface = text.partition(".")
    return InterfaceRef(stage, interface)
