"""One classifier: its network, augmentation, training and predictions."""
