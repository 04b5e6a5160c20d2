"""Our own Debian base: locked packages, unpacked."""
