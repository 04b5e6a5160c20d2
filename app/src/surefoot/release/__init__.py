"""What a release is, and whether to believe it."""
