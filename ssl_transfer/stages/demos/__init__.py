"""Demonstrate comparison, adaptation and distillation: `ssl-transfer demo`."""
