"""Load batches: order, sharing among processes, two domains, streams."""
