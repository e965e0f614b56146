"""Answers HTTP to callers that nobody vouches for: probes in plain text, metrics over TLS for those who may read them.

Open `metrics` first. `bounded` keeps any number of callers from costing much, `access` asks the API server who a caller
is, `certificate` follows the files of a Secret.
"""
