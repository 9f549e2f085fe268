"""Train a head and fine-tune a backbone: `ssl-transfer transfer`."""
