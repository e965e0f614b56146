"""Whether a ServiceFunctionChain may be stored."""

from __future__ import annotations

from sfc.names import CHAIN_KIND
from sfc.validation import checks, update, warnings
from sfc.validation.problem import listing
from webhook.model import Decision, Request, submapping

UNPROCESSABLE = 422


def chain(request: Request) -> Decision:
    """Denied with every problem at once; what is probably a mistake becomes warnings.

    Deleting is always allowed, or a namespace could not be deleted; so is an update that leaves the spec alone, or
    nobody could put a finalizer on, or a label off, a chain that an older version let in.
    """
    obj, old = request.obj, request.old
    if request.operation == "DELETE":
        return Decision(warnings=update.deletion_warnings(old))
    if request.operation == "UPDATE" and obj.get("spec") == old.get("spec"):
        return Decision()
    problems = checks.problems(obj) or update.update_problems(old, obj)
    if problems:
        name = submapping(obj, "metadata", "object").get("name")
        subject = f"{CHAIN_KIND} {request.namespace}/{name if isinstance(name, str) else ''}"
        return Decision(denied=f"{subject} is not valid: {listing(problems)}", code=UNPROCESSABLE)
    return Decision(warnings=warnings.warnings(obj) + update.update_warnings(old, obj))
