"""What the webhook knows of the cluster: chains, and the Pod Security levels of namespaces.

Two watches keep it up to date, so an admission request leads to no request to the API server.
"""

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
    """Chains, parsed, and the hook of each namespace. Empty until `start`, incomplete until `synced`."""

    def __init__(self, api: ApiServer) -> None:
        self._chains = Watch(api, CHAINS)
        self._namespaces = Watch(api, NAMESPACES)
        self._parsed: dict[Key, tuple[object, Chain | InvalidChain]] = {}
        """With the object that it was parsed from; a new version is a new object."""

    def start(self) -> None:
        """Watch in threads of their own, until `stop`."""
        self._chains.start()
        self._namespaces.start()

    def stop(self) -> None:
        """End both watches."""
        self._chains.stop()
        self._namespaces.stop()

    @property
    def synced(self) -> bool:
        """True once chains and namespaces were listed completely; it stays true."""
        return self._chains.synced and self._namespaces.synced

    def age_seconds(self) -> float:
        """Seconds since the watch of chains last received something."""
        return self._chains.age_seconds()

    def chain(self, namespace: str, name: str) -> Chain | InvalidChain | None:
        """The chain, the problems of one that is not valid, or None when it does not exist."""
        key = namespace, name
        obj = self._chains.snapshot().get(key)
        if obj is None:
            self._parsed.pop(key, None)
            return None
        if key not in self._parsed or self._parsed[key][0] is not obj:
            self._parsed[key] = obj, _parsed(obj)
        return self._parsed[key][1]

    def auto_hook(self, namespace: str) -> Hook:
        """The drain hook of a pod whose chain leaves the choice to the webhook.

        A namespace that is not known yet counts as unrestricted. If it is restricted, the API server refuses the pod's
        hook and the workload's controller tries again, while a sleep would stay with the pod for its life.
        """
        known = self._namespaces.snapshot().get(("", namespace), {})
        return hook_for(known.get("metadata", {}).get("labels") or {})


def _parsed(obj: Mapping[str, Any]) -> Chain | InvalidChain:
    try:
        return parse(obj)
    except InvalidChain as error:
        return error
