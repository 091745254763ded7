"""What a run directory says of itself: configuration, versions, fingerprints, hardware."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from errata.edits import EditStream
from errata.probes.base import Probe

__all__ = ["describe"]


def describe(
    config: Mapping[str, Any],
    stream: EditStream,
    fingerprint: str,
    sources: Mapping[str, str],
    probes: Sequence[Probe] = (),
) -> dict[str, Any]:
    """Return what `run.json` holds: configuration, versions, fingerprints, hardware, what other packages measure."""
    packages = ("errata", "torch", "transformers", "tokenizers", "safetensors")
    return {
        "name": config["run"]["name"],
        "config": dict(config),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "git": _commit(),
        "model_fingerprint": fingerprint,
        "sources": dict(sources),
        # Analysis needs neither the package nor its probe to know what the figures are.
        "own_metrics": {
            probe.name: dict(getattr(probe, "metrics", {})) for probe in probes if not _shipped(type(probe))
        },
        "stream": {
            "fingerprint": stream.fingerprint(),
            "n": len(stream),
            "batch_size": stream.batch_size,
            "hashes": stream.hashes(),
        },
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _shipped(probe: type) -> bool:
    return probe.__module__.partition(".")[0] == __name__.partition(".")[0]


def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, if it is one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
