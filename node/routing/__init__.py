"""Routing: declarative rules say which series are screened, by what, how urgently, and who gets the results."""
