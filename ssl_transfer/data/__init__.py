"""Images: where they come from, their one copy in memory, splits and label budgets, batches, augmentation."""
