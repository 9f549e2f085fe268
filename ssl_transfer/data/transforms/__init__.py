"""Transform batches on the device: augmentation, mixup, corruptions."""
