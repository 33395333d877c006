"""Runners: what runs the graphs of a model package on a device."""
