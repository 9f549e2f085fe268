"""Damage runs of all commands at random, and check that the remedy of each message works."""
