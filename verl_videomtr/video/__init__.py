"""Frames: probing, decoding, the candidate pool, its cache and its service."""
