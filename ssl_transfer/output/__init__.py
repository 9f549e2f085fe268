"""What people read: made from run folders, runs nothing."""
