"""Offline kits."""
