"""Train an objective: the loop, its state, early stopping, non-finite losses."""
