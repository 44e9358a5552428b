"""Who holds a Lease: contending, renewing, giving up in time, releasing last."""
