"""Training recipes with the hyper-parameters of the papers."""
