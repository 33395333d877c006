"""Asking the PACS: what a study consists of, whether an object is there, and fetching what is missing."""
