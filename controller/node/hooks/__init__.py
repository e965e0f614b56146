"""PreStop hooks: the relay holds the kubelet's calls, the server answers them when a replica has drained."""
