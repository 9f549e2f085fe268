"""Train, launch, track and store runs of any kind of input."""
