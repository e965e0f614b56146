"""A real Kubernetes on one machine: `python -m testbed up`.

A node is a set of namespaces (network, mount, process, host name) around its own containerd and kubelet.
Everything that runs is inside cgroups of ours and every mount, link and BPF pin is inside a namespace of ours,
so ending the processes of those cgroups takes everything else with it: `down` needs no list of what `up` did.
"""
