"""Evaluate features: kNN, linear probe, collapse, t-SNE, transferability."""
