"""Wheels for a target that nothing here runs on."""
