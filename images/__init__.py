"""How images are built, on the build machine."""
