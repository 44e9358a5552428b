"""A small API server in this process: objects with versions, watches, and HTTP in network namespaces."""
