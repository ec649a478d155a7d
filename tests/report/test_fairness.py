"""Each unfairness planted alone is told, and a fair sweep is told nothing."""

import pytest

from ramen.report.fairness import unfairness
from ramen.report.method import lr_curves


@pytest.fixture
def warnings(methods):
    return lambda by="optimizer": [f.text for f in unfairness(methods(by), [by], lr_curves(methods(by)))]


def only(optimizer, **arguments):
    return lambda o, lr, seed: arguments if o == optimizer else {}


PLANTED = {
    "tokens": (only("bam", summary={"tokens": 9999}), "Different token budgets: 1,638,400 (adamw); 9,999 (bam)."),
    "steps": (only("bam", summary={"steps": 150}), "Different numbers of steps: 200 (adamw); 150 (bam)."),
    "data": (only("bam", summary={"data_hash": "e" * 64}), "Different data: dddddddddddd (adamw); eeeeeeeeeeee (bam)."),
    "auxiliary": (
        only("bam", config={"auxiliary.lr": 0.01}),
        "Different auxiliary settings: auxiliary.lr: 0.003",
    ),
    "schedule": (
        only("bam", config={"schedule.lr.cooldown_fraction": 0.2}),
        "Different schedule settings: schedule.lr.cooldown",
    ),
    "schedule choice": (
        only("bam", choices={"schedule": "x"}, config={"schedule.lr.a": 1}),
        "schedule: wsd (adamw); x (bam)",
    ),
    "shape": (only("bam", config={"model.dim": 256}), "Different model settings: model.dim: 128 (adamw); 256 (bam)."),
    "mlp": (
        only("bam", choices={"mlp": "nff"}, config={"mlp.a": 1}),
        "Different mlp settings: mlp: relu2 (adamw); nff (bam).",
    ),
    "sequence": (only("bam", config={"data.sequence_length": 512}), "Different sequence length"),
    "batch": (
        only("bam", config={"trainer.batch_rows": 512}),
        "Different trainer settings: trainer.batch_rows: none (adamw); 512 (bam).",
    ),
    "precision": (
        only("bam", config={"precision": "fp32"}),
        "Different precision: bf16 (adamw); fp32 (bam)",
    ),
    "device": (only("bam", environment={"device": "Other"}), "Different devices"),
    "found precision": (
        lambda o, lr, seed: {"environment": {"precision": "bfloat16" if o == "bam" else "float32"}},
        "Different precision: float32 (adamw); bfloat16 (bam)",
    ),
    "commit": (
        only("bam", environment={"git_commit": "b" * 40}),
        "Different git commits: aaaaaaaaaa (adamw); bbbbbbbbbb",
    ),
    "size": (
        only("bam", summary={"parameters_without_embeddings": 1_030_000}),
        "Different numbers of parameters (without embeddings): 1,000,000 (adamw); 1,030,000 (bam).",
    ),
    "speed": (
        lambda o, lr, seed: {"summary": {"tokens_per_second": 1000.0 * (1 + seed) if o == "bam" else 1000.0}},
        "Seconds and throughput do not compare: a seed was faster than another by 3.0 times (bam).",
    ),
    "routing": (
        only("bam", config={"routing.embedding.lr_scale": 3.0}),
        "Different routing settings: routing.embedding.lr_scale",
    ),
    "identical": (lambda o, lr, s: {"final": 3 + s / 10 + abs(lr - 0.01)}, "exactly the same final_val_loss"),
}


def test_fair_sweep_has_no_warning(tmp_path, write_sweep, warnings):
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2})
    assert warnings() == []


@pytest.mark.parametrize("name", PLANTED)
def test_planted_alone(tmp_path, write_sweep, warnings, name):
    plant, text = PLANTED[name]
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, plant=plant)
    (line,) = warnings()
    assert text in line


def test_difference_within_one_method(tmp_path, write_sweep, warnings):
    plant = lambda o, lr, seed: {"environment": {"device": "Other"}} if seed == 0 else {}  # noqa: E731
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, plant=plant)
    assert "Other and Planted GPU (adamw, bam)" in warnings()[0]


def test_grouping_key_is_no_unfairness(tmp_path, write_run, warnings):
    for layers in (2, 4):
        for seed in range(3):
            final = 3 + seed / 10 + layers / 100
            write_run(tmp_path / f"{layers}-{seed}", seed=seed, final=final, config={"model.layers": layers})
    (line,) = warnings("model.layers")
    assert "only one learning rate" in line


def test_seeds_and_tuning(tmp_path, write_sweep, write_run, warnings):
    write_sweep(tmp_path / "a", {"adamw": 3.3})
    for seed in (0, 5):
        write_run(tmp_path / f"bam-{seed}", "bam", seed=seed, final=3.1 + seed / 100)
    text = "\n".join(warnings())
    assert "Different seeds: 0, 1, 2 (adamw); 0, 5 (bam)" in text
    assert "Fewer than 3 seeds: n = 2 (bam)" in text
    assert "Unequal tuning, settings tried: 3 (adamw); 1 (bam)" in text
    assert "only one learning rate tried for bam" in text


def test_best_on_the_edge(tmp_path, write_sweep, warnings):
    plant = lambda o, lr, seed: {"final": 3 + seed / 10 - lr} if o == "bam" else {}  # noqa: E731
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, plant=plant)
    (line,) = warnings()
    assert line.startswith("Not tuned: bam: best learning rate 0.02 is on the edge of the grid")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("unfinished", "Unfinished runs (still going, or killed), not ranked: bam 1."),
        ("stopped", "Runs stopped before their end, not ranked: bam 1."),
        ("failed", "Failed runs, not ranked: bam 1."),
        ("diverged", "Diverged runs (a result, but without a place in a mean): bam 1."),
    ],
)
def test_missing_runs_are_counted(tmp_path, write_sweep, write_run, warnings, status, text):
    write_sweep(tmp_path / "a", {"adamw": 3.3, "bam": 3.2})
    write_run(tmp_path / "b", "bam", lr=0.02, seed=9, status=status)
    assert warnings() == [text]


def test_survivors_flatter(tmp_path, write_sweep, write_run, warnings):
    write_sweep(tmp_path / "a", {"adamw": 3.3, "bam": 3.2})
    write_run(tmp_path / "b", "bam", lr=0.01, seed=9, status="diverged")
    assert warnings()[0] == "bam at lr=0.01: 1 diverged, so the mean of the other 3 flatters it."


def test_repeats_unknown_seeds_and_mixed_settings(tmp_path, write_sweep, write_run, warnings):
    write_sweep(tmp_path / "a", {"adamw": 3.3, "bam": 3.2})
    write_run(tmp_path / "b", "bam", lr=0.01, seed=0, final=3.21)
    write_run(tmp_path / "c", "bam", lr=0.01, seed="x", final=3.21)
    write_run(tmp_path / "d", "bam", lr=0.01, seed=0, final=3.5, config={"mlp.expansion": 2})
    text = "\n".join(warnings())
    assert "Repeated runs, of which the last by folder name is used (same setting and seed): 1." in text
    assert "Ranked runs without a recorded seed, which cannot be paired: 1." in text
    assert "runs also vary in mlp.expansion" in text


def test_nothing_finished(tmp_path, write_run, warnings):
    write_run(tmp_path / "a", status="failed")
    assert warnings() == ["No run finished: there is nothing to rank."]
