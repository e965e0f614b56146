"""A real Kubernetes on one machine: `python -m testbed up`.

It exists so that demo, tests and benchmarks need no cluster from elsewhere. A node is a set of namespaces (network,
mount, process, host name) around its own containerd and kubelet. Every process runs inside the testbed's own cgroups,
and every mount, link and BPF pin is inside a namespace of those processes. When the processes end, all the rest
vanishes with them: `down` needs no list of what `up` did.
"""
