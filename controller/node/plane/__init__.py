"""One node's data plane as values, and every decision about it.

    pods, chains (cluster, replica) ─┐
    links of the node (model) ───────┼→ desired → plan → changes → steps for the kernel, in order
    drains (drain, sessions) ────────┘              └→ transitions → log, events

The room `kernel` reads links and maps into these values and writes them back, the room `reconcile` decides when, and
the room `report` shows the result. Nothing here reads, writes, logs, locks or waits, and the time is an argument. It
imports `sfc` and a pure part of the standard library.

Read `model` first: links, targets, neighbours and filters are what the rest is about. Then `desired` and `changes`.
"""
