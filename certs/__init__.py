"""The webhook's certificates: an authority of our own, in the cluster, renewed without interruption.

`authority` makes and checks certificates, `secrets` decides what the Secrets should hold.
"""
