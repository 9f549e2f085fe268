"""Distil a teacher into a student: `ssl-transfer distill`."""
