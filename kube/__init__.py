"""A thin layer over the official `kubernetes` client: raw JSON, a watch that survives network failures, and what both
controllers and the webhook do with objects.

Open `objects` first, then `api` and `watch`.
"""
