"""What the webhook knows of the cluster: chains, and the Pod Security levels of namespaces.

Two watches keep it up to date, so an admission request leads to no request to the API server.
"""

from __future__ import annotations

from kube import lean
from kube.api import ApiServer, Collection
from kube.objects import CHAINS, NAMESPACES, Object
from kube.parsed import ParsedObjects
from kube.stored import StoredChain, stored_chain
from kube.watch import Watch
from sfc.chain import Chain, Hook
from sfc.validation.checks import InvalidChain, parse
from webhook.decide.replica import hook_for


class AdmissionCache:
    """Chains, parsed, and the hook of each namespace. Empty until `start`, incomplete until `synced`."""

    def __init__(self, api: ApiServer) -> None:
        self._chains = Watch(api, Collection(CHAINS.path(), lean.CHAIN), stored_chain, on_change=self._refresh)
        self._namespaces = Watch(api, Collection(NAMESPACES.path()), _hook)
        self._parsed = ParsedObjects(_parsed)

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
        return self._parsed.one(self._chains.snapshot(), (namespace, name))

    def auto_hook(self, namespace: str) -> Hook:
        """The drain hook of a pod whose chain leaves the choice to the webhook.

        A namespace that is not known yet counts as unrestricted. If it is restricted, the API server refuses the pod's
        hook and the workload's controller tries again, while a sleep would stay with the pod for its life.
        """
        return self._namespaces.snapshot().get(("", namespace), hook_for({}))

    def _refresh(self) -> None:
        self._parsed.refresh(self._chains.snapshot())


def _hook(namespace: Object, _: object) -> Hook:
    return hook_for(namespace["metadata"].get("labels") or {})


def _parsed(stored: StoredChain, _: object) -> Chain | InvalidChain:
    try:
        return parse(stored.obj())
    except InvalidChain as error:
        return error
