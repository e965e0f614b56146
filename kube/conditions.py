"""Conditions of pods and of our own objects: compared with what stands in the API server, and written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kube import objects
from kube.objects import Object


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition without its times. A message should hold nothing that changes by itself: each change is a write."""

    kind: str
    """The field `type`: Ready, for example."""
    status: bool
    reason: str
    message: str

    def stands_in(self, current: Object | None) -> bool:
        """Whether the API server has it already. `current`: the condition of this kind, None without one."""
        return current is not None and (current["status"], current.get("reason"), current.get("message")) == (
            str(self.status),
            self.reason,
            self.message,
        )

    def of(self, obj: Object, now: datetime) -> dict[str, Any]:
        """The whole condition, as an element of `status.conditions` of our own object.

        `lastTransitionTime` is `now` when the status differs from that in `obj`.
        """
        current = objects.condition(obj, self.kind)
        since = objects.timestamp(now) if current is None or self._differs(current) else current["lastTransitionTime"]
        return {
            **self._content,
            "observedGeneration": obj["metadata"].get("generation", 0),
            "lastTransitionTime": since,
        }

    def patch(self, uid: str, current: Object | None, now: datetime) -> dict[str, Any]:
        """A strategic merge patch of a pod's status.

        The UID protects a new pod of the same name (StatefulSets) from the condition of its predecessor.
        """
        changed = current is None or self._differs(current)
        since = {"lastTransitionTime": objects.timestamp(now)} if changed else {}
        return {"metadata": {"uid": uid}, "status": {"conditions": [{**self._content, **since}]}}

    @property
    def _content(self) -> dict[str, Any]:
        return {"type": self.kind, "status": str(self.status), "reason": self.reason, "message": self.message}

    def _differs(self, current: Object) -> bool:
        return bool(current["status"] != str(self.status))
