"""What a user asks for, from configuration to run folder. Each stage has a config, a function and a `main`."""
