"""What runs in build stages to bring the wheels of another platform."""
