"""Where things are. The state folder does not depend on the checkout, so that `down` works from every checkout."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PINS = CHECKOUT / "testbed" / "pins"
MANIFESTS = CHECKOUT / "testbed" / "manifests"

STATES = Path("/var/lib")
"""The folder of the state folders."""
USUAL_NAME = "sfc-testbed"
NAME = os.environ.get("SFC_TESTBED") or USUAL_NAME
"""The name of the state folder and of the cgroups. Testbeds with different names share only the cache."""
PUBLISHED = Path("build") if NAME == USUAL_NAME else Path("build", NAME)
"""Where in a checkout users find kubeconfig and kubectl."""
STATE = STATES / NAME
OWNER_FILE = "testbed-of"
OWNER = STATE / OWNER_FILE
"""Names the checkout whose `up` made the state folder: written first, and removed last."""
LOG = STATE / "log"
RUN = STATE / "run"
"""One file for each daemon that we started, with its process id."""
PKI = STATE / "pki"
KUBECONFIG = STATE / "kubeconfig"
CLUSTER = STATE / "cluster.json"
"""The cluster that runs. `up` writes it last: when it exists, `up` has finished."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfc-testbed"
