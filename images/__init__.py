"""What builds for each platform."""
