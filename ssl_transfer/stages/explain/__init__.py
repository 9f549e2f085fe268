"""Explain a model with pictures: `ssl-transfer explain`."""
