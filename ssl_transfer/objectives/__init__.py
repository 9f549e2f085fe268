"""What the transfer stage can train towards, beside the labels themselves."""
