"""The process: configuration, worker loop, command line."""
