"""The admission webhook: makes pods replicas of their stage, carries labels into workloads, denies invalid chains.

A request passes these modules in this order:

- `app`: HTTP; `server` and `connection` hold the sockets, `certificate` their TLS.
- `review`: from the bytes of an AdmissionReview to a request, and from a decision to the bytes of the answer.
- `decide`: the decisions, without any I/O. `cache` holds what they need to know of the cluster.
- `patch`: from the edits of a decision to a JSON Patch.
"""
