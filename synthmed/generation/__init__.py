"""Mass production: from a model file and counts per class to folders, or a stream, of synthetic samples."""
