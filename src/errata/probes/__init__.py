"""Probes: what is measured along the way, each one file."""

from errata.probes.registry import probe_class, probes

__all__ = ["probe_class", "probes"]
