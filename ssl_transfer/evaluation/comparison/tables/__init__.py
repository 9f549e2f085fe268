"""Read the tables of a comparison, each checked, and check the results of its runs."""
