"""A Ray cluster of two nodes makes the runs that one machine makes, also when a worker is killed on the way."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from errata.studies.engine import Job
from errata.studies.evaluate import Evaluation, evaluate, part_of
from errata.studies.recipe import ProbeSection, load_recipe
from errata.studies.run import run
from tiny import tiny_facts, tiny_model

EDITS = 24


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes on this machine, each with one core."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: nothing for whoever tests on a machine in use
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'errata[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


def recipe(folder: Path) -> dict[str, object]:
    model = tiny_model("gpt2")
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(EDITS)]
    (folder / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    return {
        "model": {"name": str(folder / "model")},
        "method": {"name": "ft-c", "steps": 10},
        "edits": {"dataset": "jsonl", "path": str(folder / "facts.jsonl")},
        "probes": [{"name": "proficiency"}, {"name": "forgetting", "every": 5}, {"name": "drift"}],
        "run": {"name": "r", "checkpoint_every": 7},
    }


def content(out: Path) -> dict[str, object]:
    """Return what a run came to: rows and updates as bytes, the journal without its seconds."""
    files = [*sorted((out / "probes").rglob("part-*.parquet")), *sorted((out / "updates").iterdir())]
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return {str(f.relative_to(out)): f.read_bytes() for f in files} | {
        "journal": [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    }


def holder(file: Path) -> int | None:
    """Return the worker that has a file open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::") and file in map(
                Path.readlink, (process / "fd").iterdir()
            ):
                return int(process.name)
        except OSError:  # ended in between, or another user's
            continue
    return None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="who holds a run's lock is read from /proc")
def test_a_cluster_that_loses_a_worker_loses_no_edit_and_counts_none_twice(cluster, tmp_path) -> None:
    from errata.distributed.ray_engine import Places, evaluate_on_ray, run_all_on_ray

    given = recipe(tmp_path)
    jobs = [Job(load_recipe(given, [f"method.layer={i}"]), tmp_path / f"ray-{i}") for i in (0, 1, 9)]
    victim = jobs[0].out
    killed: list[int] = []

    def kill() -> None:
        journal = victim / "journal.jsonl"
        while not journal.exists() or len(journal.read_bytes().splitlines()) < EDITS // 8:
            time.sleep(0.01)
        if pid := holder(victim / ".lock"):
            os.kill(pid, signal.SIGKILL)
            killed.append(len(journal.read_bytes().splitlines()))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    told: list[str] = []
    outcomes = run_all_on_ray(jobs, places=Places(), tell=told.append)
    killer.join(timeout=1)
    assert killed, "the run ended before it could be killed"
    assert EDITS // 8 <= killed[0] < EDITS
    assert [o.status for o in outcomes] == ["done", "done", "failed"]
    assert "layer 9 is out of range" in outcomes[2].message
    assert len(told) == 3
    here = [run(job.recipe, tmp_path / f"here-{i}") for i, job in enumerate(jobs[:2])]
    assert [content(job.out) for job in jobs[:2]] == [content(out) for out in here]
    assert [o.status for o in run_all_on_ray(jobs[:2], places=Places())] == ["kept", "kept"]
    # Each past step is a task; the rows are those of an evaluation here.
    there, local = (Evaluation(p, ProbeSection(name="entropy"), (0, 20)) for p in (jobs[0].out, here[0]))
    assert evaluate_on_ray([there], places=Places(actors=1)) == [""]
    evaluate(local)
    for step in local.steps:
        found, wanted = (part_of(asked.run, "entropy", step).read_bytes() for asked in (there, local))
        assert found == wanted
