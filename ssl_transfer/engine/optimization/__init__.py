"""Optimise parameters: optimisers, learning-rate schedules, gradients, averages."""
