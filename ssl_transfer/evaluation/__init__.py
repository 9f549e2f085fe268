"""Measuring: features, neighbours, metrics of predictions, statistics over runs. Trains nothing."""
