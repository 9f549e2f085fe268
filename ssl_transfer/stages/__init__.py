"""Run one command each, from configuration to run folder. Each stage has a config, a function and a `main`."""
