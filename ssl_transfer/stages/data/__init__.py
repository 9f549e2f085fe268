"""Inspect images and their cache: `ssl-transfer data`."""
