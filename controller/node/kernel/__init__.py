"""Everything that speaks to the kernel: links and filters over netlink, the BPF program and its maps."""
