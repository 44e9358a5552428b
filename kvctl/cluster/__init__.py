"""Objects in: manifests or the API of a cluster become the values of `kvctl.model.objects`."""
