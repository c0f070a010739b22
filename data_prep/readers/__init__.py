"""One module per benchmark: its files in the shapes they are published in -> samples to evaluate on."""
