"""Leader election by a Lease, the protocol of client-go's leaderelection: one cluster controller acts at a time.

Clocks of different machines are never compared: a lease has expired when this process has seen it unchanged for its
whole duration. The leader gives up well before that, RENEW_DEADLINE_SECONDS after its last renewal.

The times are longer than usual: a machine with far too much to do is slow, and a leader that is slow is no reason for a
new process on the same machine. A leader that ends in order releases the lease at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kube import objects
from kube.api import ApiError, ApiServer
from kube.objects import LEASES, Object
from sfc import names

NAME = "sfc-cluster-controller"
DURATION_SECONDS = 60
RENEW_DEADLINE_SECONDS = 45.0
RETRY_SECONDS = 2.0

_PATH = LEASES.path(names.SYSTEM_NAMESPACE, NAME)


class Election:
    """One candidate's part in it. To be used by one thread at a time."""

    def __init__(self, api: ApiServer, identity: str) -> None:
        """`identity`: differs from that of every other process."""
        self._api = api
        self._identity = identity
        self._seen = ""
        self._seen_at = 0.0

    def attempt(self, monotonic: float, now: datetime) -> bool:
        """Take or renew the lease if possible. Returns whether we hold it now; raises ApiError when that is unknown.

        `monotonic`: seconds, from any start.
        """
        try:
            return self._attempt(monotonic, now)
        except ApiError as error:
            if error.status == 409:  # another candidate was quicker
                return False
            raise

    def release(self, now: datetime) -> None:
        """Let another candidate lead at once. Does nothing when the lease is not ours. Raises ApiError."""
        lease = self._api.get(_PATH)
        if lease["spec"].get("holderIdentity") == self._identity:
            self._api.replace(_PATH, _with(lease, "", 1, now))

    def _attempt(self, monotonic: float, now: datetime) -> bool:
        lease = self._found()
        if lease is None:
            new = LEASES.object({"name": NAME, "namespace": names.SYSTEM_NAMESPACE}, spec={})
            self._api.create(LEASES.path(names.SYSTEM_NAMESPACE), _with(new, self._identity, DURATION_SECONDS, now))
            return True
        if self._held_by_another(lease, monotonic):
            return False
        self._api.replace(_PATH, _with(lease, self._identity, DURATION_SECONDS, now))
        return True

    def _found(self) -> dict[str, Any] | None:
        try:
            return self._api.get(_PATH)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _held_by_another(self, lease: Object, monotonic: float) -> bool:
        spec, version = lease.get("spec") or {}, lease["metadata"]["resourceVersion"]
        if version != self._seen:
            self._seen, self._seen_at = version, monotonic
        holder = spec.get("holderIdentity")
        unchanged_for = monotonic - self._seen_at
        return bool(holder) and holder != self._identity and unchanged_for < spec.get("leaseDurationSeconds", 0)


def _with(lease: Object, holder: str, duration: int, now: datetime) -> dict[str, Any]:
    spec = lease.get("spec") or {}
    moment = objects.micro_timestamp(now)
    changed = {"holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": moment}
    if spec.get("holderIdentity") != holder:
        changed |= {"acquireTime": moment, "leaseTransitions": spec.get("leaseTransitions", 0) + 1}
    return {**lease, "spec": {**spec, **changed}}
