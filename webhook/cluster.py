"""What the webhook knows of the cluster: chains, and the Pod Security levels of namespaces. Never asked per request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kube.api import ApiServer
from kube.parsed import ParsedObjects
from kube.watch import Watch
from sfc import names
from sfc.chain import Chain, Hook
from sfc.validation.checks import InvalidChain, parse
from webhook.replica import hook_for

CHAINS = f"/apis/{names.API_VERSION}/{names.CHAIN_PLURAL}"
NAMESPACES = "/api/v1/namespaces"


class Cluster:
    def __init__(self, api: ApiServer) -> None:
        self._chains = Watch(api, CHAINS)
        self._namespaces = Watch(api, NAMESPACES)
        self._parsed = ParsedObjects(_parsed)

    def start(self) -> None:
        self._chains.start()
        self._namespaces.start()

    def stop(self) -> None:
        self._chains.stop()
        self._namespaces.stop()

    @property
    def synced(self) -> bool:
        return self._chains.synced and self._namespaces.synced

    def age_seconds(self) -> float:
        """Since the API server's last word about chains."""
        return self._chains.age_seconds()

    def chain(self, namespace: str, name: str) -> Chain | InvalidChain | None:
        return self._parsed.one(self._chains.snapshot(), (namespace, name))

    def auto_hook(self, namespace: str) -> Hook:
        """A namespace not heard of yet counts as unrestricted: a hook refused there is tried again by the workload's
        controller, while a sleep would stay with the pod for its life."""
        known = self._namespaces.snapshot().get(("", namespace), {})
        return hook_for(known.get("metadata", {}).get("labels") or {})


def _parsed(obj: Mapping[str, Any], _: object) -> Chain | InvalidChain:
    try:
        return parse(obj)
    except InvalidChain as error:
        return error
