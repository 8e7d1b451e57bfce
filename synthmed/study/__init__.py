"""What synthetic images are worth: classifiers trained on real, on synthetic and on both."""
