"""Where volumes are screened: in this process, or on actors of a Ray cluster."""
