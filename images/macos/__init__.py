"""The macOS bundle: its builder, and in `inside/` what goes into it."""
