"""Whether a ServiceFunctionChain may be stored."""

from __future__ import annotations

from sfc.names import CHAIN_KIND
from sfc.validation import checks as validation
from sfc.validation import update
from sfc.validation import warnings as doubts
from sfc.validation.problem import listing
from webhook import read
from webhook.model import AdmissionRequest, Decision

UNPROCESSABLE = 422


def chain(request: AdmissionRequest) -> Decision:
    """Denied with every problem at once; what is legal but doubtful becomes warnings.

    Deleting is always allowed, or a namespace could not be deleted; so is an update that leaves the spec alone, or
    nobody could put a finalizer on, or a label off, a chain that an older version let in.
    """
    obj, old = request.obj, request.old
    if request.operation == "DELETE":
        return Decision(warnings=update.deletion_warnings(old))
    if request.operation == "UPDATE" and obj.get("spec") == old.get("spec"):
        return Decision()
    problems = validation.problems(obj) or update.update_problems(old, obj)
    if problems:
        subject = f"{CHAIN_KIND} {request.namespace}/{read.name(obj)}"
        return Decision(denied=f"{subject} is not valid: {listing(problems)}", code=UNPROCESSABLE)
    return Decision(warnings=doubts.warnings(obj) + update.update_warnings(old, obj))
