"""Whether a ServiceFunctionChain may be stored."""

from __future__ import annotations

from sfc import doubts, validation
from sfc.names import CHAIN_KIND
from sfc.problem import listing
from webhook.model import Decision, Request, submapping

UNPROCESSABLE = 422


def chain(request: Request) -> Decision:
    """Denied with every problem at once; what is legal but doubtful becomes warnings. Deleting is always allowed."""
    if request.operation not in ("CREATE", "UPDATE"):
        return Decision()
    if problems := validation.problems(request.obj):
        name = submapping(request.obj, "metadata", "object").get("name")
        subject = f"{CHAIN_KIND} {request.namespace}/{name if isinstance(name, str) else ''}"
        return Decision(denied=f"{subject} is not valid: {listing(problems)}", code=UNPROCESSABLE)
    warnings = doubts.warnings(request.obj) + doubts.update_warnings(request.old, request.obj)
    return Decision(warnings=warnings)
