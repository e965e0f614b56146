"""The webhook's certificates: an authority of our own, in the cluster, renewed without anybody noticing."""
