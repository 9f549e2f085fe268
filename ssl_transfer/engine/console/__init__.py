"""Write to the terminal: progress bars, tables, signals, closed pipes."""
