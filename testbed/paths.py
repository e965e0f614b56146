"""Where things are. The state folder is fixed, so that `down` works from any checkout."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PINS = CHECKOUT / "testbed" / "pins"
MANIFESTS = CHECKOUT / "testbed" / "manifests"

STATE = Path("/var/lib/sfc-testbed")
LOG = STATE / "log"
RUN = STATE / "run"
"""Process ids of what we started, one file each."""
PKI = STATE / "pki"
KUBECONFIG = STATE / "kubeconfig"
CLUSTER = STATE / "cluster.json"
"""What runs; written last, so that its presence means a finished `up`."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfc-testbed"
