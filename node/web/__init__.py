"""The page for people, the metrics and the health checks."""
