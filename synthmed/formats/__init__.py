"""Files of weights, ours and those of others, read as data and never run."""
