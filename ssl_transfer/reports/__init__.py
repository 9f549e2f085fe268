"""Draw pages, tables and pictures from run folders."""
