"""Two programs: `node`, an agent on every node, keeps the data path; `cluster`, one a cluster, keeps the objects."""
