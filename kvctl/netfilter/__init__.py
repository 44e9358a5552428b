"""Rules as values to the kernel and back, through the iptables binaries."""
