"""Load images: sources, storage, splits and label budgets, batches, augmentation."""
