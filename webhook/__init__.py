"""Admission: carries chain labels into workloads, makes pods replicas of their stage, validates chains.

Read from the outside in: `__main__` (process), `app` (HTTP), `review` (the AdmissionReview envelope), then the pure
`mutate` and `validate`, which decide over a request and the cluster's state as `cluster` last heard of it.
"""
