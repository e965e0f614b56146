"""Where things are. The state folder does not depend on the checkout, so that `down` works from any."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PINS = CHECKOUT / "testbed" / "pins"
MANIFESTS = CHECKOUT / "testbed" / "manifests"

NAME = os.environ.get("SFC_TESTBED") or "sfc-testbed"
"""Of the state folder and the cgroups. Two testbeds of different names share nothing but the cache."""
STATE = Path("/var/lib") / NAME
LOG = STATE / "log"
RUN = STATE / "run"
"""Process ids of what we started, one file each."""
PKI = STATE / "pki"
KUBECONFIG = STATE / "kubeconfig"
CLUSTER = STATE / "cluster.json"
"""What runs; written last, so that its presence means a finished `up`."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfc-testbed"
