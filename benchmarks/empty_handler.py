"""`python -m benchmarks.empty_handler PORT TLS-DIRECTORY`: a handler that does nothing, under the webhook's server."""

from __future__ import annotations

import sys
from pathlib import Path

from fastapi import FastAPI, Response

from webhook.certificate import ServingCertificate
from webhook.server import server_of

application = FastAPI()


@application.post("/mutate/pods")
async def nothing() -> Response:
    """An empty response; the request's body is not read."""
    return Response()


if __name__ == "__main__":
    certificate = ServingCertificate(Path(sys.argv[2]))
    certificate.refresh()
    address = "127.0.0.1", int(sys.argv[1])
    server_of(application, address, ssl_context_factory=lambda *_: certificate.context).run()
