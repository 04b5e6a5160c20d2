"""Judgement: gates for a model, what ails a device. Rules on plain values are pure; what measures stands apart."""
