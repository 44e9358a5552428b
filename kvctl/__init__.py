"""kvctl: pods leave the cluster with their Service's load-balancer address."""

__version__ = "0.1.0"
