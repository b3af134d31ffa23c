"""The same core on a Ray cluster: batch scoring on Ray Data, the service on Ray Serve."""
