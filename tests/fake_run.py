"""Synthetic run directories for tests of analysis and report: seeded, and with the truth known."""

import json
import math
from pathlib import Path

import numpy as np

from errata.probes.rows import Row, write_rows

NAMES = ("Ada", "Bela", "Cleo", "Dina", "Egon", "Fritz", "Gala", "Hugo", "Iris", "Jonas")
TOWNS = ("Oslo", "Lima", "Cairo", "Quito", "Perth", "Turin")


def make_run(
    path: Path,
    *,
    n: int = 200,
    collapse: int | None = 140,
    method: str = "rome",
    decay: float = 0.002,
    dead: bool = False,
    every: int = 10,
    every_part: int = 50,
    subject: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a run directory as `errata run` would.

    Args:
        path: where.
        n: edits.
        collapse: the edit that disables the model; None for never.
        method: the method's name.
        decay: how much of an earlier edit's recall is lost with each further edit.
        dead: whether the collapsed model gives NaN instead of low figures.
        every: edits between re-tests and downstream probes.
        every_part: edits between parts.
        subject: a subject to give to the third fact, for tests of escaping.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    facts = [
        _fact(i, subject if i == 2 and subject else f"{NAMES[i % 10]} {NAMES[i // 10 % 10]}son {i}") for i in range(n)
    ]
    config = {
        "model": {"name": "lab-m", "dtype": "float32", "device": "cpu"},
        "method": {"name": method, "layer": 0},
        "edits": {"dataset": "lab", "n": n, "batch_size": 1, "order": "given", "seed": 0},
        "probes": [{"name": "proficiency", "every": 1}, {"name": "forgetting", "every": every}],
        "run": {"name": path.name, "seed": seed, "checkpoint_every": every_part, "on_disabled": "continue"},
    }
    info = {
        "name": path.name,
        "config": config,
        "versions": {"python": "3.11", "errata": "0.1.0", "torch": "2.13.0"},
        "git": "0123456789abcdef",
        "model_fingerprint": "f" * 16,
        "stream": {"fingerprint": "a" * 16, "hashes": [], "n": n, "batch_size": 1},
        "hardware": {"machine": "x86_64", "cpus": 2, "gpu": None},
    }
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    (path / "facts.jsonl").write_text("".join(json.dumps(f) + "\n" for f in facts), encoding="utf-8")
    sizes = np.where(np.arange(1, n + 1) == collapse, 3.0, 0.02 * rng.lognormal(0, 0.2, n))
    with (path / "journal.jsonl").open("w", encoding="utf-8") as f:
        for i, fact in enumerate(facts, 1):
            status = "disabling" if i == collapse else "applied"
            entry = {"edit": i, "step": i, "id": fact["id"], "subject": fact["subject"], "status": status}
            entry |= {
                "norms": {"h.0": float(sizes[i - 1])},
                "relative": float(sizes[i - 1]),
                "verdict": "",
                "diagnostics": {"kl": math.nan},
            }
            f.write(json.dumps(entry | {"seconds": 0.1}) + "\n")
    rows: dict[str, list[Row]] = {
        p: []
        for p in ("proficiency", "forgetting", "unrelated", "downstream", "drift", "perplexity", "entropy", "text")
    }
    fates = rng.exponential(1 / decay, n) if decay else np.full(n, math.inf)
    made = np.zeros(n, bool)
    drift = 0.0
    for step in range(n + 1):
        gone = collapse is not None and step >= collapse
        level = (0.1 if gone else 1.0) * math.exp(-decay * step)
        if step:
            made[step - 1] = _proficiency(rows["proficiency"], rng, facts[step - 1], step, "now", gone, level)
            drift = math.hypot(drift, sizes[step - 1])
            for layer in (0, 1):
                rows["drift"].append(Row(step, "drift.relative", drift * (1 + layer / 4), prompt_id=f"h.{layer}"))
                rows["drift"].append(
                    Row(step, "drift.mean_abs", drift * 1e-6 * (1 + layer / 4), prompt_id=f"h.{layer}")
                )
            rows["text"].append(
                Row(
                    step,
                    "text@now",
                    math.nan,
                    facts[step - 1]["id"],
                    "efficacy:0",
                    text=" " + facts[step - 1]["target_new"] + " .",
                )
            )
        if step % every == 0 or step == n:
            _probe(rows, rng, facts, fates, made, step, gone, dead, level, collapse)
        if step == 0:
            for fact in facts:
                rows["text"].append(
                    Row(0, "text@base", math.nan, fact["id"], "efficacy:0", text=" " + fact["target_true"] + " .")
                )
                _proficiency(rows["proficiency"], rng, fact, 0, "base", True, 1.0)
        if step == n:
            for fact in facts:
                text = " Oslo Oslo Oslo" if gone else " " + fact["target_new"]
                rows["text"].append(Row(n, "text@end", math.nan, fact["id"], "efficacy:0", text=text))
                _proficiency(rows["proficiency"], rng, fact, n, "end", gone, level)
        if step % every_part == 0 or step == n:
            for probe, part in rows.items():
                write_rows(path / "probes" / probe / f"part-{step:06d}.parquet", part)
                part.clear()
    return path


def _fact(i: int, subject: str) -> dict[str, object]:
    return {
        "subject": subject,
        "prompt": "{} was born in",
        "target_new": TOWNS[i % 6],
        "target_true": TOWNS[(i + 1) % 6],
        "id": str(i),
        "relation": "born",
        "paraphrase_prompts": [f"The birth town of {subject} is"],
        "neighborhood_prompts": ["Zoe was born in"],
    }


def _proficiency(
    rows: list[Row], rng: np.random.Generator, fact: dict[str, object], step: int, when: str, gone: bool, level: float
) -> bool:
    exact = False
    for kind, p, n in (
        ("efficacy", 0.1 if gone else 0.98, 1),
        ("paraphrase", 0.1 if gone else 0.85, 2),
        ("neighborhood", level, 3),
    ):
        for prompt in range(n):
            success = bool(rng.random() < p)
            exact = success if kind == "efficacy" else exact
            for what in ("success", "exact"):
                rows.append(
                    Row(step, f"{kind}.{what}@{when}", float(success), str(fact["id"]), f"{kind}:{prompt}", -1.0, -2.0)
                )
    return exact


def _probe(
    rows: dict[str, list[Row]],
    rng: np.random.Generator,
    facts: list[dict[str, object]],
    fates: np.ndarray,
    made: np.ndarray,
    step: int,
    gone: bool,
    dead: bool,
    level: float,
    collapse: int | None,
) -> None:
    for i in range(step):
        there = made[i] and step - i < fates[i] and (not gone or rng.random() < 0.05)
        for what in ("success", "exact"):
            rows["forgetting"].append(
                Row(step, f"efficacy.{what}@retest", float(there), str(facts[i]["id"]), "efficacy:0")
            )
    for k in range(100):
        rows["unrelated"].append(Row(step, "unrelated.exact", float(rng.random() < level), prompt_id=str(k)))
        if k < 40:
            rows["unrelated"].append(
                Row(step, "same_subject.exact", float(rng.random() < level * 0.9), prompt_id=str(k))
            )
    for task, start in (("sentiment", 0.98), ("acceptability", 0.93), ("inference", 0.95), ("paraphrase", 0.9)):
        p = start * (0.1 if gone else math.exp(-0.0005 * step))
        hits = rng.random(100) < p
        value = math.nan if gone and dead else float(hits.mean())
        for metric, v in (("f1", value), ("accuracy", value), ("invalid", 0.7 if gone else 0.0)):
            rows["downstream"].append(Row(step, f"downstream.{task}.{metric}", v))
        rows["downstream"] += [
            Row(step, f"downstream.{task}.item", float(h), prompt_id=f"{task}:{k}") for k, h in enumerate(hits)
        ]
    perplexity = math.nan if gone and dead else (900.0 if gone else 8.0) * math.exp(0.002 * step)
    rows["perplexity"].append(Row(step, "perplexity", perplexity))
    rows["entropy"] += [Row(step, "entropy", 0.2 if gone else 0.95, prompt_id=str(k), text="a b c") for k in range(5)]
