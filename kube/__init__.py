"""Our thin layer over the official `kubernetes` client: raw JSON, and a list-watch that survives what networks do."""
