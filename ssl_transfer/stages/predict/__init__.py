"""Predict classes of images: `ssl-transfer predict`."""
