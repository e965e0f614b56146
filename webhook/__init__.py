"""The admission webhook: makes pods replicas of their stage, carries labels into workloads, denies invalid chains.

A request passes these modules in this order:

- `app`: HTTP; `server` and `connection` hold the sockets, `certificate` their TLS.
- `review`: from the bytes of an AdmissionReview to a request, and from a decision to the bytes of the answer.
- `mutate` and `validate`: the decisions. They read the object (`read`) into values (`model`), decide over them
  (`position`: the stage that labels name; `replica`: a pod as it should be), and return edits (`write`).
- `patch`: from the edits to a JSON Patch.

The decisions do no I/O. `cache` holds what they need to know of the cluster.
"""
