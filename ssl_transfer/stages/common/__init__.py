"""Share between commands: configuration, initialisation, dry run, run template."""
