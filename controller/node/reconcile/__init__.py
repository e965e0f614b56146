"""The loop that brings the data path to what the cluster asks for: observe, plan, apply.

Open `reconciler` first. A pass observes with `node_view` and `cluster_view`, plans with the room `plane`, and writes
with `applier`; `drains` has the hooks that wait, and `session_counter` what they wait for. `orphans` is a loop of its
own. This room knows the room `kernel` by the Protocols in `protocols` only.
"""
