"""The study-state store: what the node knows of every study, series, instance, result and delivery."""
