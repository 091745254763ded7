"""Probes: what is measured along the way."""
