"""Recipes of the small packages in models/, for one CPU core each; docs/models/compact.md says how they are used."""
