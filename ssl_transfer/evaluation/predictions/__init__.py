"""Evaluate predictions: metrics, calibration, corruptions, attacks, Grad-CAM."""
