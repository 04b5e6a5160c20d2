"""The A/B slot store: keeps models safe. See ``docs/reference/slots.md``."""
