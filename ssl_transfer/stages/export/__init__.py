"""Export a model to other formats: `ssl-transfer export`."""
