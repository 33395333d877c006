"""Offline work: data sets, training recipes, export to model packages, evaluation."""
