"""The engine knows no images: configuration, randomness, the one training loop and what it needs."""
