"""What the node agent reports: pod conditions, events, CrossConnection status, log lines, metrics.

`conditions` and `clashes` are pure; `status_writer` and `contests` write to the API server.
"""

COMPONENT = "sfc-node"
"""The node agent's name in the events that it reports."""
