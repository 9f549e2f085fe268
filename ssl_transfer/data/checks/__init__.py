"""Check images before training: unreadable files, copies, small classes."""
