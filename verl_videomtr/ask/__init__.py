"""One question about one video, played in the terminal as it happens."""
