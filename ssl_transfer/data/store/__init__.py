"""Store decoded pixels once, as uint8 or deeper values, in a memory-mapped cache."""
