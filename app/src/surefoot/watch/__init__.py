"""Judgement: gates that a model must pass. Pure rules on plain values; others measure."""
