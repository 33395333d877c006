"""Readers for the public CT data sets and for own data, all giving the same item."""
