"""Adapt to another domain: `ssl-transfer adapt`."""
