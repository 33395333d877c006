"""Runners: one interface over the inference backends."""
