"""Where things are. The state folder does not depend on the checkout, so that `down` works from any."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PINS = CHECKOUT / "testbed" / "pins"
MANIFESTS = CHECKOUT / "testbed" / "manifests"

USUAL_NAME = "sfc-testbed"
NAME = os.environ.get("SFC_TESTBED") or USUAL_NAME
"""Of the state folder and the cgroups. Two testbeds of different names share nothing but the cache."""
PUBLISHED = Path("build") if NAME == USUAL_NAME else Path("build", NAME)
"""Where in a checkout users find kubeconfig and kubectl."""
STATE = Path("/var/lib") / NAME
LOG = STATE / "log"
RUN = STATE / "run"
"""Process ids of what we started, one file each."""
PKI = STATE / "pki"
KUBECONFIG = STATE / "kubeconfig"
CLUSTER = STATE / "cluster.json"
"""What runs; written last, so that its presence means a finished `up`."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfc-testbed"
