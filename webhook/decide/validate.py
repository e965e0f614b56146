"""The decision about a ServiceFunctionChain: whether it may be stored."""

from __future__ import annotations

from sfc.names import CHAIN_KIND
from sfc.validation import bounds, checks, update, warnings
from sfc.validation.problem import listing
from webhook.decide import read
from webhook.decide.model import AdmissionRequest, Decision

UNPROCESSABLE = 422


def chain(request: AdmissionRequest) -> Decision:
    """Deny an invalid chain with all its problems at once; warn of what is probably a mistake.

    A deletion is always allowed: otherwise a namespace could not be deleted. So is an update that leaves the spec
    alone: otherwise nobody could add a finalizer to, or remove a label from, a chain that an older version let in. Such
    a chain is followed as it is, but its next change must make it valid, and keep it within the bounds.
    """
    obj, old = request.obj, request.old
    if request.operation == "DELETE":
        return Decision(warnings=update.deletion_warnings(old))
    if request.operation == "UPDATE" and obj.get("spec") == old.get("spec"):
        return Decision()
    problems = checks.problems(obj) + bounds.excesses(obj)
    change = None if problems else update.Change.of(old, obj)
    if change:
        problems = update.update_problems(change)
    if problems or change is None:
        subject = f"{CHAIN_KIND} {request.namespace}/{read.name(obj)}"
        return Decision(denied=f"{subject} is not valid: {listing(problems)}", code=UNPROCESSABLE)
    return Decision(warnings=warnings.warnings(change.after) + update.update_warnings(change))
