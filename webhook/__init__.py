"""Admission: carries chain labels into workloads, makes pods replicas of their stage, validates chains.

Read from the outside in: `__main__` (process), `app` (HTTP), `review` (the AdmissionReview envelope), then the pure
`mutate` and `validate`, which decide over a request and what `cache` knows of the cluster.
"""
