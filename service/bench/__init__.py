"""`convoy bench`: load for a running server, and what came of it. Knows HTTP and nothing of how the server is made."""
