"""Describe transfer plans: settings, phases, and the rules that hold for all arms alike."""
