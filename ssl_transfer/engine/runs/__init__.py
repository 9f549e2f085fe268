"""Manage run folders and their checkpoint files."""
