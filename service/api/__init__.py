"""HTTP only: translate a request in, call the core once, translate its answer out."""
