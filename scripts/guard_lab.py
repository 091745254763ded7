"""What the guard saves and costs on the lab: streams of edits with and without it, and streams made to break a model.

python scripts/guard_lab.py --out runs/guard              # every case, those that are there already are kept
python scripts/guard_lab.py --out runs/guard --case NAME  # one of them
python scripts/guard_lab.py --out runs/guard --page       # the tables of docs/results/guard.md

The stream "screened" is made of the facts that `errata screen` ranks worst, which has to have been run before:

errata screen --model lab-s --method rome -o method.use_covariance=false -n 300 --worst 40 --out runs/guard/screen
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

import errata
from errata.analysis.intervals import bootstrap_mean, wilson
from errata.edits import EditStream, Fact
from errata.edits.datasets import load_facts
from errata.edits.jsonl import read_own
from errata.lab.models import load_world
from errata.models import EditableModel
from errata.probes.base import View
from errata.probes.canary import canary_lines
from errata.probes.downstream import Downstream, DownstreamSettings
from errata.probes.scoring import score
from errata.probes.unrelated import Unrelated, UnrelatedSettings
from errata.studies.guarded import guard_of, watch_over
from errata.studies.recipe import GuardSection, load_recipe
from errata.studies.session import open_session, prepare
from errata.trajectory import Trajectory

N = {"lab-s": 100, "lab-m": 150}
METHODS: dict[str, dict[str, Any]] = {
    "rome-without-C": {"name": "rome", "use_covariance": False},
    "rome": {"name": "rome"},
    "memit": {"name": "memit"},
}
TIMED = 60  # edits
LONG = 200  # tokens of a target, and words before a prompt
ADVERSARIAL = ("screened", "harmful", "repeated", "contradictory", "long-prompts", "long-targets")


def cases() -> dict[str, tuple[str, str, str, bool, int]]:
    """Return every case: model, method, stream, guard, seed."""
    found = {}
    for model, seeds in (("lab-s", 3), ("lab-m", 1)):
        for method in ("rome-without-C", "rome"):
            for seed in range(seeds):
                for guard in (False, True):
                    name = f"{model}_{method}_{'guarded' if guard else 'unguarded'}_{seed}"
                    found[name] = (model, method, "plain", guard, seed)
    for stream in ADVERSARIAL:
        for method in ("rome-without-C", "memit"):
            for guard in (False, True):
                name = f"lab-s_{method}_{stream}_{'guarded' if guard else 'unguarded'}"
                found[name] = ("lab-s", method, stream, guard, 0)
    return found


def stream_of(kind: str, model: EditableModel, n: int, seed: int, screened: Path) -> EditStream:
    """Return a stream: one fact of each of n people, or what is made of 40 (15 where long) of them to do harm."""
    if kind == "screened":
        return EditStream(tuple(replace(fact, id=str(i)) for i, fact in enumerate(read_own(str(screened)))))
    facts = list(EditStream.build(load_facts("lab", None, model=model.name, seed=seed), n=n).facts)
    rng, few = Random(seed), facts[:40]
    objects = sorted({fact.object for fact in load_world(model.name).facts()})
    if kind == "harmful":
        # Objects of other relations, of which the model holds that they can never follow.
        few = [replace(fact, target_new=rng.choice([o for o in objects if o != fact.target_true])) for fact in few]
    elif kind == "repeated":
        few = [replace(facts[0], id=str(i)) for i in range(len(few))]
    elif kind == "contradictory":
        few = [replace(facts[i // 8], id=str(i), target_new=objects[(7 * i) % len(objects)]) for i in range(len(few))]
    elif kind == "long-prompts":
        words = " ".join(load_world(model.name).heldout_text(60)).split()[: model.positions - 40]
        few = [replace(fact, prompt=f"{' '.join(words)} . {fact.prompt}") for fact in few[:15]]
    elif kind == "long-targets":
        length = min(LONG, model.positions - 40)
        few = [replace(fact, target_new=" ".join(rng.choices(objects, k=length))) for fact in few[:15]]
    return EditStream(tuple(facts if kind == "plain" else few))


def trajectory_of(
    model_name: str, method: str, kind: str, guard: bool, seed: int, screened: Path
) -> tuple[Trajectory, EditStream]:
    """Return a case ready to be edited, and what is to be edited."""
    model = errata.load(model_name)
    stream = stream_of(kind, model, N[model_name], seed, screened)
    content: Mapping[str, Any] = {
        "model": {"name": model_name},
        "method": METHODS[method],
        "edits": {"dataset": "jsonl"},
        "probes": [],
        "run": {"seed": seed},
        "guard": {"enabled": guard},
    }
    session = open_session(load_recipe(content), model=model, stream=stream)
    prepare(session)
    watch = watch_over(model, session.recipe.guard, stream, seed)
    return Trajectory(model, session.proposer, guard=guard_of(session.recipe), judge=watch), stream


def timed(model_name: str, method: str, screened: Path) -> dict[str, Any]:
    """Return CPU seconds of the same edits without and with the guard, in turn, so that both meet the same load."""
    pair = [trajectory_of(model_name, method, "plain", guard, 0, screened)[0] for guard in (False, True)]
    stream = stream_of("plain", pair[0].model, N[model_name], 0, screened)
    taken: list[list[float]] = [[], []]
    for _, batch in list(stream.batches())[:TIMED]:
        for trajectory, seconds in zip(pair, taken, strict=True):
            started = time.process_time()
            trajectory.advance(batch)
            seconds.append(time.process_time() - started)
    return {"unguarded": taken[0], "guarded": taken[1]}


def measure(model_name: str, method: str, kind: str, guard: bool, seed: int, screened: Path) -> dict[str, Any]:
    """Make one case's edits and return its figures."""
    trajectory, stream = trajectory_of(model_name, method, kind, guard, seed, screened)
    model = trajectory.model
    lines = set(canary_lines(model, "auto", GuardSection().lines, stream.facts, seed))
    before = asked(model, stream.facts, lines)
    seconds, now = 0.0, []
    unrelated = [before["unrelated"]]
    for step, batch in stream.batches():
        started = time.process_time()
        trajectory.advance(batch)
        seconds += time.process_time() - started
        now += score(model, [(fact.text, fact.target_new) for fact in batch])
        if step % 10 == 0 or step == len(stream):
            unrelated.append(asked(model, stream.facts, lines, tasks=False)["unrelated"])
    entries = trajectory.journal.entries
    ends = score(model, [(fact.text, fact.target_new) for fact in stream.facts])
    return {
        "n": len(stream),
        "statuses": dict(Counter(entry.status for entry in entries)),
        "settings": dict(Counter(f"{entry.setting} × {entry.scale:g}" for entry in entries if entry.applied)),
        "seconds": seconds,
        "took": sum(found.exact for found in now),
        "logp": [found.logp for found in now],
        "took_end": sum(found.exact for found in ends),
        "unrelated_along": unrelated,
        "before": before,
        "after": asked(model, stream.facts, lines),
        "canary": [entry.signals.get("kl") for entry in entries],
        "reasons": dict(Counter(entry.verdict.split(",")[0][:80] for entry in entries if not entry.applied)),
    }


def asked(model: EditableModel, facts: Sequence[Fact], canary: set[str], *, tasks: bool = True) -> dict[str, float]:
    """Return the shares of unrelated facts, outside the canary, and of task items that are right."""
    probe = Unrelated(UnrelatedSettings())
    probe.prepare(model, facts)
    rows = [
        row for row in probe.measure(View(model, 1)) if row.metric == "unrelated.exact" and row.prompt_id not in canary
    ]
    found = {"unrelated": fmean(row.value for row in rows), "unrelated_n": len(rows)}
    if tasks:
        downstream = Downstream(DownstreamSettings(n=50))
        downstream.prepare(model, facts)
        items = [row.value for row in downstream.measure(View(model, 1)) if row.metric.endswith(".item")]
        found |= {"tasks": sum(value == 1.0 for value in items) / len(items), "tasks_n": len(items)}
    return found


def share(value: float, n: int) -> str:
    """Return a share with its 95 % Wilson interval."""
    low, high = wilson(round(value * n), n)
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def page(out: Path) -> str:
    """Return a table row a case."""
    heads = ["case", "took at once", "refused", "other setting or size", "unrelated facts", "its lowest", "tasks"]
    heads += ["canary KL", "CPU s an edit"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in cases():
        if not (out / f"{name}.json").exists():
            continue
        r = json.loads((out / f"{name}.json").read_text())
        b, a = r["before"], r["after"]
        canary = [kl for kl in r["canary"] if kl is not None]
        cells = (
            name.replace("_", ", "),
            share(r["took"] / r["n"], r["n"]),
            str(sum(r["statuses"].get(status, 0) for status in ("rolled-back", "failed"))),
            str(sum(count for setting, count in r["settings"].items() if setting != "0 × 1")),
            f"{b['unrelated']:.3f} → {share(a['unrelated'], a['unrelated_n'])}",
            f"{min(r['unrelated_along']):.3f}",
            f"{b['tasks']:.3f} → {share(a['tasks'], a['tasks_n'])}",
            f"{canary[-1]:.3f}" if canary else "–",
            f"{r['seconds'] / r['n']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where a JSON file a case is kept")
    parser.add_argument("--case", choices=list(cases()), help="measure this one alone")
    parser.add_argument("--timed", action="store_true", help="time edits with and without the guard in turn")
    parser.add_argument("--page", action="store_true", help="print the tables of what is there")
    arguments = parser.parse_args()
    if arguments.page:
        print(page(arguments.out))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    screened = arguments.out / "screen" / "worst.jsonl"
    if arguments.timed:
        for method in ("rome-without-C", "rome"):
            taken = timed("lab-s", method, screened)
            (arguments.out / f"timed-{method}.json").write_text(json.dumps(taken))
            ratios = np.array(taken["guarded"]) / fmean(taken["unguarded"])
            low, high = bootstrap_mean(ratios, np.random.default_rng(0))
            print(
                f"{method}: guarded edits take {ratios.mean():.2f} times as long ({low:.2f} to {high:.2f})", flush=True
            )
        return
    for name, case in cases().items():
        file = arguments.out / f"{name}.json"
        if not file.exists() and arguments.case in (None, name):
            file.write_text(json.dumps(measure(*case, screened)))
            print(name, flush=True)


if __name__ == "__main__":
    main()
