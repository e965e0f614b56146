"""What the node agent reports: pod conditions, events, CrossConnection status, metrics."""
