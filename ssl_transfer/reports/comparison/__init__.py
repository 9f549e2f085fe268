"""Draw the report of a comparison."""
