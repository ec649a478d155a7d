"""Each unfairness planted alone is told, and a fair sweep is told nothing."""

import pandas as pd
import pytest

from ramen.report import compare
from ramen.report.fairness import unfairness
from ramen.report.grouping import lr_curves
from ramen.report.tables import ranking_table


@pytest.fixture
def warnings(methods):
    return lambda by="optimizer": [f.text for f in unfairness(methods(by), [by], lr_curves(methods(by)))]


def only(optimizer, **arguments):
    return lambda o, lr, seed: arguments if o == optimizer else {}


def differing(key, one, other, place="config"):
    """`one` in all adamw runs, `other` in all bam runs."""
    return lambda o, lr, seed: {place: {key: other if o == "bam" else one}}


TOLD, PROBABLY, NO_VERDICT = "better", "probably better ({short})", "no verdict: {short}"
PLANTED = {  # name: (what to plant, warning, short name in the verdict, verdict)
    "tokens": (only("bam", summary={"tokens": 9999}), "Different token budgets: 1,638,400 (adamw); 9,999 (bam).", NO_VERDICT),
    "few tokens": (only("bam", summary={"tokens": 1_640_000}), "Different token budgets: 1,638,400 (adamw)", PROBABLY),
    "steps": (only("bam", summary={"steps": 150}), "Different numbers of steps: 200 (adamw); 150 (bam).", TOLD),
    "data": (only("bam", summary={"data_hash": "e" * 64}), "Different data: dddddddddddd (adamw); eeeeeeee", NO_VERDICT),
    "tokenizer": (differing("data.tokenizer", "gpt2", "byte"), "Different tokenizers: gpt2 (adamw); byte (bam)", NO_VERDICT),
    "sequence": (only("bam", config={"data.sequence_length": 512}), "Different sequence lengths: 256", NO_VERDICT),
    "validation": (differing("data.validation_tokens", None, 4096), "Different validation tokens: none (a", NO_VERDICT),
    "validation rows": (differing("data.validation", "spread", "first"), "Different validation rows: spread", NO_VERDICT),
    "crop": (differing("data.long_documents", "split", "crop"), "Different data settings: data.long_documents", PROBABLY),
    "batch": (only("bam", config={"trainer.batch_rows": 512}), "trainer.batch_rows: none (adamw); 512 (bam).", PROBABLY),
    "micro-batch": (differing("trainer.micro_batch_tokens", 8, 16), "Different speed settings: trainer.micro", TOLD),
    "auxiliary": (only("bam", config={"auxiliary.lr": 0.01}), "Different auxiliary settings: auxiliary.lr: ", PROBABLY),
    "decay of the auxiliary": (only("bam", config={"auxiliary.weight_decay": 1}), "auxiliary.weight_decay", PROBABLY),
    "schedule": (only("bam", config={"schedule.lr.cooldown_fraction": 0.2}), "schedule.lr.cooldown_", PROBABLY),
    "schedule choice": (
        only("bam", choices={"schedule": "x"}, config={"schedule.lr.a": 1}), "schedule: wsd (adamw); x (bam)", PROBABLY,
    ),
    "windows": (differing("long_window_schedule.end", 1, 2), "Different long_window_schedule settings", PROBABLY),
    "window": (only("bam", config={"attention.window_tokens": 64}), "Different attention settings: ", PROBABLY),
    "clipping": (differing("trainer.grad_clip", 1.0, None), "trainer.grad_clip: 1 (adamw); none (bam)", PROBABLY),
    "shape": (only("bam", config={"model.dim": 256}), "Different model settings: model.dim: 128 (a", PROBABLY),
    "mlp": (only("bam", choices={"mlp": "nff"}, config={"mlp.a": 1}), "mlp: relu2 (adamw); nff (bam).", PROBABLY),
    "tied": (
        lambda o, lr, s: {"choices": {"embedding": "tied" if o == "bam" else "untied"}, "config": {"embedding.a": o}},
        "Different embedding settings: embedding: untied (adamw); tied (bam)", PROBABLY,
    ),
    "routing": (only("bam", config={"routing.embedding.lr_scale": 3.0}), "Different routing settings: ", PROBABLY),
    "size": (
        differing("parameters_without_embeddings", 1_000_000, 1_030_000, "summary"),
        "Different numbers of parameters (without embeddings): 1,000,000 (adamw); 1,030,000 (bam).", PROBABLY,
    ),
    "embeddings": (only("bam", summary={"parameters": 1_030_000}), "Different numbers of parameters: 1,000,0", PROBABLY),
    "work": (differing("flops_per_token", 1000, 1100, "summary"), "Different FLOPs a token: 1,000 (a", TOLD),
    "asked precision": (only("bam", config={"precision": "fp32"}), "Different precision: bf16 (adamw); fp32 (b", PROBABLY),
    "precision": (differing("precision", "float32", "bfloat16", "environment"), "precision: float32 (ada", PROBABLY),
    "device": (only("bam", environment={"device": "Other"}), "Different devices (seconds and throughput do not", TOLD),
    "threads": (differing("threads", 1, 2, "environment"), "Different numbers of threads: 1 (adamw); 2 (bam).", TOLD),
    "torch": (differing("versions", {"torch": "2"}, {"torch": "3"}, "environment"), "Different torch versions: 2", TOLD),
    "ramen": (differing("versions", {"ramen": "2"}, {"ramen": "3"}, "environment"), "Different ramen versions", TOLD),
    "backend": (differing("attention_backend", "flex", "sdpa", "summary"), "Different attention backends: flex", TOLD),
    "compiled": (differing("compile", "on", "off", "summary"), "Different compilation: on (adamw); off (bam).", TOLD),
    "asked to compile": (
        lambda o, lr, s: {"config": {"compile": o}, "summary": {"compile": o}}, "Different compilation: adamw", TOLD,
    ),
    "diagnostics": (
        lambda o, lr, s: {"choices": {"diagnostics": "on" if o == "bam" else "off"}}, "Different diagnostics: off", TOLD,
    ),
    "evaluations": (differing("trainer.evaluate_every_steps", 10, 50), "Different evaluation intervals in steps", TOLD),
    "decay": (differing("optimizer.cautious", True, False), "Different weight decay: cautious (adamw); plain (b", TOLD),
    "commit": (only("bam", environment={"git_commit": "b" * 40}), "Different git commits: aaaaaaaaaa (adamw); bb", TOLD),
    "edited": (
        lambda o, lr, s: {"environment": {"git_diff": str(s)} if o == "bam" else {}},
        "Different code within a method", "no verdict: runs of different code",
    ),
    "edited components": (
        lambda o, lr, s: {"environment": {"code_hash": str(s), "git_diff": ""} if o == "bam" else {}},
        "Different code within a method", "no verdict: runs of different code",
    ),
    "edited core": (
        lambda o, lr, s: {"environment": {"code": {f"ramen.{o}": o, "ramen.nn.gpt": "b" if o == "bam" else "a"}}},
        "Different code of ramen.nn.gpt: a (adamw); b (bam).", PROBABLY,
    ),
    "changed summary": (
        only("bam", summary={"sha256": "0"}), "summary.json: was changed after it was written", NO_VERDICT,
    ),
    "changed summary of a rate that is not shown": (
        lambda o, lr, s: {"summary": {"sha256": "0"}} if (o, lr, s) == ("bam", 0.02, 0) else {},
        "summary.json: was changed after it was written", NO_VERDICT,
    ),
    "changed config": (
        only("bam", summary={"config_hash": "0"}), "config.yaml: was changed after it was written, got hash", NO_VERDICT,
    ),
    "extended": (
        only("bam", environment={"parts": [{"budget": {"steps": 100}}, {"budget": {"steps": 200}, "from_step": 100}]}),
        "budget.steps changed when the run went on, from 100 to 200", NO_VERDICT,
    ),
    "moved": (
        only("bam", environment={"parts": [{"threads": 1}, {"threads": 2, "device": "Planted GPU"}]}),
        "threads changed when the run went on, from 1 to 2", TOLD,
    ),
    "lost records": (
        only("bam", environment={"parts": [{"threads": 2, "lost_records": 3}]}), "3 records of metrics were gone", TOLD,
    ),
    "skipped": (
        only("bam", summary={"skipped_steps": 2}), "Skipped steps (not finite): 6 (bam)", "probably better (skipped steps)",
    ),
    "speed": (
        lambda o, lr, seed: {"summary": {"tokens_per_second": 1000.0 * (1 + seed) if o == "bam" else 1000.0}},
        "Seconds and throughput do not compare: a seed was faster by 3.0 times (bam).", TOLD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_alone_is_told_once_and_stands_in_the_verdict(tmp_path, write_sweep, warnings, methods, name):
    plant, text, said = PLANTED[name]
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.0}, plant=plant, noise=0.001)
    (finding,) = unfairness(methods(), ["optimizer"], lr_curves(methods()))
    assert text in finding.text
    row = ranking_table(methods(), methods()[0], [finding]).set_index("method").loc["bam"]
    assert row["verdict"] == said.format(short=finding.short)
    assert pd.isna([row["difference"], row["p"], row["low"]]).all() == said.startswith("no verdict")


def test_identical_methods_are_one_run_under_two_names(tmp_path, write_sweep, warnings):
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.0}, plant=lambda o, lr, s: {"final": 3 + s / 10 + abs(lr - 0.01)})
    (line,) = warnings()
    assert "exactly the same final_val_loss" in line


def test_losses_of_other_tokenizers_are_compared_by_bits_per_byte(tmp_path, write_sweep):
    def plant(o, lr, seed):  # a byte has little loss; by bits per byte bam is the worst
        final = 3 + seed / 100 + abs(lr - 0.01) - (1.5 if o == "bam" else 0)
        per_byte = 1 + seed / 100 + abs(lr - 0.01) + (0.5 + seed / 1000 if o == "bam" else 0)
        tokenizer = "byte" if o == "bam" else "gpt2"
        summary = {"final_val_bits_per_byte": per_byte, "data_hash": tokenizer}
        return {"final": final, "config": {"data.tokenizer": tokenizer}, "summary": summary}

    report = compare(write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2}, plant=plant))
    assert (report.metric, list(report.ranking["method"])) == ("final_val_bits_per_byte", ["adamw", "bam"])
    assert report.ranking.iloc[1]["verdict"] == "worse"
    assert report.warnings == [
        "Different tokenizers (so methods are ranked by bits per byte): gpt2 (adamw); byte (bam)."
    ]
    asked = compare(tmp_path, metric="final_val_loss")
    assert asked.answer == "No verdict against adamw on bam (different tokenizers)."


def test_a_metric_of_speed_compares_on_one_machine_only(tmp_path, write_sweep):
    def plant(o, lr, seed):
        speed = {"tokens_per_second": 1000.0 + seed + (100 + seed % 2) * (o == "bam"), "tokens": 5 if o == "bam" else 6}
        return {"summary": speed, "environment": {"device": o if other_device else "one"}}

    for other_device, said in ((False, "better"), (True, "no verdict: different devices")):
        top = write_sweep(tmp_path / str(other_device), {"adamw": 3.3, "bam": 3.2}, plant=plant, lrs=(0.01,))
        assert compare(top, metric="tokens_per_second").ranking.set_index("method")["verdict"]["bam"] == said


def test_under_a_budget_of_seconds_tokens_are_a_result_and_the_machine_matters(tmp_path, write_sweep):
    def plant(o, lr, seed):
        timed = {"trainer.seconds": 60, "trainer.steps": None, "trainer.tokens": None}
        more = {"summary": {"tokens": 9999}} if o == "bam" else {}
        return {"config": timed, "environment": {"device": o if other_device else "one"}, **more}

    for other_device, said in ((False, "better"), (True, "no verdict: different devices")):
        top = write_sweep(tmp_path / str(other_device), {"adamw": 3.3, "bam": 3.0}, plant=plant, noise=0.001)
        assert compare(top).ranking.set_index("method")["verdict"]["bam"] == said


def test_what_is_compared_is_no_unfairness_unless_losses_do_not_compare_by_it(tmp_path, write_sweep):
    for key, one, other, said in (
        ("precision", "bf16", "fp32", "better"),
        ("data.sequence_length", 8, 16, "no verdict"),
    ):

        def plant(o, lr, seed, key=key, one=one, other=other):
            config = {"optimizer._target_": "adamw", key: one if o == "a" else other}
            return {"choices": {"optimizer": "adamw"}, "config": config}

        top = write_sweep(tmp_path / key, {"a": 3.3, "b": 3.0}, plant=plant, noise=0.001)
        base = f"{key.rsplit('.')[-1]}={one}"
        assert compare(top, by=key, baseline=base).ranking["verdict"].str.startswith(said).any()


def test_what_every_method_was_tuned_over_is_no_difference(tmp_path, write_run, warnings):
    for optimizer in ("adamw", "bam"):
        for rate in (0.1, 0.2):
            for seed in range(3):
                better = 0.1 * ((rate == 0.1) == (optimizer == "bam"))
                final = 3 + seed / 100 - better + (seed % 2) / 1000 * (optimizer == "bam")
                more = {"seed": seed, "final": final, "config": {"auxiliary.lr": rate}}
                write_run(tmp_path / f"{optimizer}-{rate}-{seed}", optimizer, **more)
    assert not any(line.startswith("Different") for line in warnings())


def test_fair_sweep_has_no_warning(tmp_path, write_sweep, warnings):
    write_sweep(tmp_path, {"adamw": 3.3, "bam": 3.2})
    assert warnings() == []


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


@pytest.mark.parametrize("status", ["unfinished", "stopped", "failed", "diverged"])
def test_missing_runs_are_counted(tmp_path, write_sweep, write_run, warnings, status):
    write_sweep(tmp_path / "a", {"adamw": 3.3, "bam": 3.2})
    write_run(tmp_path / "b", "bam", lr=0.02, seed=9, status=status)
    assert warnings() == [f"Runs without a place in a mean: bam 1 {status}."]


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
