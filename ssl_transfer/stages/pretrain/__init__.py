"""Pretrain a backbone: `ssl-transfer pretrain`."""
