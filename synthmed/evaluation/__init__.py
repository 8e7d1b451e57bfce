"""What the evaluating commands do: of generated images beside real ones, and of autoencoders."""
