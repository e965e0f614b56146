"""What the webhook knows of the cluster: chains, and the Pod Security levels of namespaces. Never asked per request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kube.api import ApiServer
from kube.watch import Key, Watch
from sfc import names
from sfc.chain import Chain, Hook
from sfc.validation.checks import InvalidChain, parse
from webhook.replica import hook_for

CHAINS = f"/apis/{names.API_VERSION}/{names.CHAIN_PLURAL}"
NAMESPACES = "/api/v1/namespaces"


class AdmissionCache:
    def __init__(self, api: ApiServer) -> None:
        self._chains = Watch(api, CHAINS)
        self._namespaces = Watch(api, NAMESPACES)
        self._parsed: dict[Key, tuple[object, Chain | InvalidChain]] = {}
        """By the object it was parsed from; a new version is a new object."""

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
        key = namespace, name
        obj = self._chains.snapshot().get(key)
        if obj is None:
            self._parsed.pop(key, None)
            return None
        if key not in self._parsed or self._parsed[key][0] is not obj:
            self._parsed[key] = obj, _parsed(obj)
        return self._parsed[key][1]

    def auto_hook(self, namespace: str) -> Hook:
        """A namespace not heard of yet counts as unrestricted: a hook refused there is tried again by the workload's
        controller, while a sleep would stay with the pod for its life."""
        known = self._namespaces.snapshot().get(("", namespace), {})
        return hook_for(known.get("metadata", {}).get("labels") or {})


def _parsed(obj: Mapping[str, Any]) -> Chain | InvalidChain:
    try:
        return parse(obj)
    except InvalidChain as error:
        return error
