"""Images by the ten thousand: plan, render, write, each process its share."""
