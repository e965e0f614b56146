"""`python -m benchmarks.empty_handler PORT TLS-DIRECTORY`: a handler that does nothing, under the webhook's server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response

from webhook.certificate import ServingCertificate
from webhook.door import Application, Message
from webhook.server import server_of

application = FastAPI()


@application.post("/mutate/pods")
async def nothing() -> Response:
    """An empty response; the request's body is not read."""
    return Response()


def known(handler: Application) -> Application:
    """The handler, for callers that all count as API servers."""

    async def wrapped(scope: Message, receive: Any, send: Any) -> None:
        scope["state"]["connection"].prove()
        await handler(scope, receive, send)

    return wrapped


if __name__ == "__main__":
    certificate = ServingCertificate(Path(sys.argv[2]))
    certificate.refresh()
    address = "127.0.0.1", int(sys.argv[1])
    server_of(known(application), address, ssl_context_factory=lambda *_: certificate.context).run()
