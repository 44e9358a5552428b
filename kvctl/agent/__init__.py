"""The node agent of `kvctl egress watch`: the loop, what wakes it, and how it tells what it did."""
