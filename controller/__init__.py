"""The controllers: `node`, one agent a node, keeps the data path; `cluster`, one a cluster, keeps the objects."""
