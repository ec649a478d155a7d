"""Grouping by any key, the setting shown, and the baseline."""

import pytest

from ramen.errors import DataError
from ramen.report.grouping import default_by, find_baseline, group, lr_curves, matters, parse_by, setting_keys, varying


@pytest.fixture
def labels(methods):
    return lambda *by: [method.label for method in methods(*by)]


def test_by_choice_by_key_and_by_both(tmp_path, write_run, read, labels):
    for i, (optimizer, mlp, layers) in enumerate([("bam", "nff", 2), ("adamw", "nff", 4), ("adamw", "relu2", 4)]):
        write_run(tmp_path / str(i), optimizer, choices={"mlp": mlp}, config={"model.layers": layers})
    runs = read()
    assert labels("optimizer") == ["adamw", "bam"]
    assert labels("mlp") == ["nff", "relu2"]
    assert labels("model.layers") == ["layers=2", "layers=4"]
    assert labels("optimizer", "mlp") == ["adamw + nff", "adamw + relu2", "bam + nff"]
    assert labels("optimizer.lr", "auxiliary.lr") == ["optimizer.lr=0.01 + auxiliary.lr=0.003"]
    assert parse_by(["optimizer,mlp", "optimizer"], runs) == ["optimizer", "mlp"]


def test_values_that_differ_are_told_apart(tmp_path, write_run, labels):
    for lr in (0.0123456, 0.0123457):
        write_run(tmp_path / str(lr), lr=lr)
    assert labels("optimizer.lr") == ["lr=0.0123456", "lr=0.0123457"]


@pytest.mark.parametrize(("one", "other"), [({"mlp.a": True}, {"mlp.a": 1}), ({"mlp.a": None}, {})])
def test_a_switch_is_no_number_and_null_is_not_absent(tmp_path, write_run, read, one, other):
    for i, config in enumerate((one, other)):
        write_run(tmp_path / str(i), config=config)
    assert varying(read()) == ["mlp.a"]


def test_a_mapping_is_compared_as_a_whole_and_null_is_a_value_of_it(tmp_path, write_run, read, labels):
    for i in range(2):
        write_run(tmp_path / f"a{i}", config={"model.softcap.attention": 50, "model.softcap.logits": 15}, seed=i)
        write_run(tmp_path / f"b{i}", config={"model.softcap": None}, seed=i)
    write_run(tmp_path / "c", config={"model.softcap.attention": 30, "model.softcap.logits": 15})
    assert varying(read()) == default_by(read()) == ["model.softcap"]
    capped = ["softcap={attention: 30, logits: 15}", "softcap={attention: 50, logits: 15}"]
    assert labels("model.softcap") == ["softcap=none", *capped]


def test_key_absent_or_null_is_none(tmp_path, write_run, labels):
    write_run(tmp_path / "a", config={"attention.window_tokens": 128})
    write_run(tmp_path / "b")
    assert labels("attention.window_tokens") == ["window_tokens=128", "window_tokens=none"]


@pytest.mark.parametrize(("key", "hint"), [("optimiser", "optimizer"), ("layers", "model.layers"), ("zzz", "there is")])
def test_unknown_key_suggests(tmp_path, write_run, read, key, hint):
    write_run(tmp_path / "a")
    with pytest.raises(DataError, match=f"{key}.*{hint}"):
        parse_by(key, read())


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ([{}, {"lr": 0.02}, {"seed": 3}], ["optimizer"]),
        ([{"optimizer": "bam"}, {"lr": 0.02}], ["optimizer"]),
        ([{"choices": {"mlp": "nff"}}, {}], ["mlp"]),
        ([{"config": {"model.layers": 8}}, {}], ["model.layers"]),
        ([{"config": dict.fromkeys(("mlp.a", "mlp.b", "mlp.c", "mlp.d"), 1)}, {}], ["optimizer"]),  # a search
        ([{"choices": {"schedule": "linear"}}, {}], ["schedule"]),
        ([{"optimizer": "bam", "choices": {"schedule": "linear", "mlp": "nff"}}, {}], ["optimizer"]),
        ([{"optimizer": "bam"}, {"choices": {"mlp": "nff"}}, {}], ["optimizer", "mlp"]),
        (
            [{"choices": {"batch_schedule": name}, "config": {"batch_schedule.values": name}} for name in "ab"],
            ["batch_schedule"],
        ),
        (
            [{"choices": {"logger": "wandb"}, "config": {"model.dim": 8}}, {"choices": {"logger": "none"}}],
            ["model.dim"],
        ),
        ([{"choices": dict.fromkeys(("experiment", "mlp", "position"), name)} for name in "ab"], ["experiment"]),
        ([{"choices": dict.fromkeys(("experiment", "mlp"), name)} for name in "ab"], ["mlp"]),
        ([{"choices": {"experiment": name}} for name in "ab"], ["experiment"]),
        ([{"choices": {"experiment": a, "schedule": b}} for a in "ab" for b in "ab"], ["experiment", "schedule"]),
        ([{"choices": {"experiment": a, "mlp": b}} for a in "ab" for b in "ab"], ["experiment", "mlp"]),
        ([{"config": {"logger.project": "x", "trainer.record_every_steps": 3}}, {}], ["optimizer"]),
    ],
)
def test_default_grouping_is_what_varies(tmp_path, write_run, read, variants, expected):
    for i, variant in enumerate(variants):
        write_run(tmp_path / str(i), **variant)
    assert default_by(read()) == expected


def test_a_run_that_is_not_done_adds_no_axis(tmp_path, write_run, read):
    """Its choices are in environment.json before there is a summary: a sweep looked at half-way is grouped as at its end."""
    write_run(tmp_path / "a", "bam")
    write_run(tmp_path / "b")
    (write_run(tmp_path / "c", "bam", seed=1) / "summary.json").unlink()
    assert default_by(read()) == ["optimizer"]
    assert setting_keys([run for run in read() if run.choices["optimizer"] == "bam"], ["optimizer"]) == ["optimizer.lr"]


def test_a_run_of_unknown_choices_does_not_make_a_choice_of_them(tmp_path, write_run, read):
    """Killed runs of older versions: a group that is not known of one run is no difference between the others."""
    write_run(tmp_path / "a", "bam", choices={"auxiliary": "adamw", "model": "gpt"})
    write_run(tmp_path / "b", choices={"auxiliary": "adamw", "model": "gpt"})
    (write_run(tmp_path / "c", "bam", seed=1, environment={"choices": None}) / "summary.json").unlink()
    assert default_by(read()) == ["optimizer"]


def test_what_matters():
    assert all(map(matters, ["model.dim", "optimizer.lr", "trainer.eval_tokens", "data.name", "position.log_scale"]))
    assert not any(map(matters, ["seed", "name", "data.folder", "trainer.evaluate_every_steps", "logger.mode"]))


def test_best_setting_needs_all_its_seeds(tmp_path, write_run, methods):
    for seed in range(3):
        write_run(tmp_path / f"steady-{seed}", "bam", lr=0.01, seed=seed, final=3.2)
    write_run(tmp_path / "lucky", "bam", lr=0.02, seed=0, final=2.9)
    for seed in (1, 2):
        write_run(tmp_path / f"lost-{seed}", "bam", lr=0.02, seed=seed, status="diverged", error="NaN")
    (method,) = methods()
    assert method.setting_text == "lr=0.01"
    assert sorted(method.scores) == [0, 1, 2]
    assert len(method.settings) == 2


def test_fresh_seeds_alone_count_where_every_tuned_method_has_three(tmp_path, write_run, methods):
    """Chosen on seeds 0 and 1, run again on 10 to 12: the choice has not seen those."""
    for optimizer, more in (("adamw", 0.0), ("bam", -0.1)):
        for lr in (0.01, 0.02):
            for seed in (0, 1, *((10, 11, 12) if lr == 0.01 else ())):
                final = 3 + more + seed / 100 + 10 * (lr - 0.01)
                write_run(tmp_path / f"{optimizer}-{lr}-{seed}", optimizer, lr=lr, seed=seed, final=final)
    write_run(tmp_path / "muon", "muon", seed=10)  # of one setting every seed is fresh
    assert [sorted(method.scores) for method in methods()] == [[10, 11, 12], [10, 11, 12], [10]]
    write_run(tmp_path / "seen", "bam", lr=0.02, seed=10, status="diverged")
    assert [len(method.scores) for method in methods()] == [5, 5, 1]


def test_a_setting_wins_by_its_mean_in_the_metrics_own_direction(tmp_path, write_run, read):
    """Not by its luckiest seed; and where more is better, by the highest."""
    for lr, values in ((0.01, (3.0, 3.0)), (0.02, (2.0, 4.5))):
        for seed, value in enumerate(values):
            more = {"lr": lr, "seed": seed, "final": value, "summary": {"tokens_per_second": value}}
            write_run(tmp_path / f"{lr}-{seed}", "bam", **more)
    for metric, lr in (("final_val_loss", 0.01), ("tokens_per_second", 0.02)):
        (method,) = group(read(), ["optimizer"], metric)
        assert method.setting_text == f"lr={lr}"


@pytest.mark.parametrize("status", ["diverged", "stopped", "failed", "unfinished"])
def test_only_a_finished_run_has_a_place_whatever_numbers_others_leave(tmp_path, write_run, methods, status):
    """One that diverges at its end has a final loss, too; and a rate that failed was not tried."""
    write_run(tmp_path / "a", "bam", lr=0.01, final=3.0)
    write_run(tmp_path / "b", "bam", lr=0.02, status=status, summary={"final_val_loss": 1.0})
    (method,) = methods()
    assert (method.scores, len(method.settings)) == ({0: 3.0}, 1 + (status == "diverged"))


def test_other_hyperparameters_are_settings_too(tmp_path, write_run, methods):
    for momentum, final in ((0.9, 3.1), (0.95, 3.0)):
        for seed in range(2):
            config = {"optimizer.momentum": momentum}
            write_run(tmp_path / f"{momentum}-{seed}", "bam", seed=seed, final=final, config=config)
    (method,) = methods()
    assert method.setting_text == "lr=0.01, momentum=0.95"
    assert lr_curves([method])[0].points[["lr", "mean"]].to_numpy().tolist() == [[0.01, 3.0]]


def test_repeated_run_counts_once_and_the_last_wins(tmp_path, write_run, methods):
    write_run(tmp_path / "2026-01-01", final=3.5)
    write_run(tmp_path / "2026-01-02", final=3.4)
    (method,) = methods()
    assert (method.scores, method.repeats) == ({0: 3.4}, 1)


@pytest.mark.parametrize(
    ("rates", "diverged", "remark"),
    [
        ({0.01: 3.1, 0.02: 3.0, 0.04: 3.2}, [], "inside the grid"),
        ({0.01: 3.0, 0.02: 3.1, 0.04: 3.2}, [], "on the edge of the grid (smallest of 3 tried"),
        ({0.01: 3.2, 0.02: 3.1, 0.04: 3.0}, [], "on the edge of the grid (largest of 3 tried"),
        ({0.01: 3.2, 0.02: 3.1}, [0.04], "inside the grid"),
        ({0.01: 3.2}, [], "only one learning rate"),
        ({}, [0.04], "no learning rate led to a finished run"),
    ],
)
def test_is_it_tuned(tmp_path, write_run, methods, rates, diverged, remark):
    for lr, final in rates.items():
        write_run(tmp_path / str(lr), "bam", lr=lr, final=final)
    for lr in diverged:
        write_run(tmp_path / str(lr), "bam", lr=lr, status="diverged")
    (curve,) = lr_curves(methods())
    assert remark in curve.remark
    assert list(zip(curve.points["lr"], curve.points["diverged"], strict=True)) == [(lr, 0) for lr in rates] + [
        (lr, 1) for lr in diverged
    ]


def test_baseline(tmp_path, write_run, methods):
    for name in ("bam", "adamw", "muon"):
        write_run(tmp_path / name, name)
    grouped = methods()
    for wanted in (None, "adamw", "optimizer=adamw"):
        assert find_baseline(wanted, grouped, ["optimizer"])[0].label == "adamw"
    others = [method for method in grouped if method.label != "adamw"]
    method, note = find_baseline(None, others, ["optimizer"])
    assert (method.label, "first by name" in note) == ("bam", True)


def test_the_default_baseline_is_one_that_finished(tmp_path, write_run, methods):
    write_run(tmp_path / "a", "adamw", status="failed")
    write_run(tmp_path / "b", "bam")
    assert find_baseline(None, methods(), ["optimizer"])[0].label == "bam"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("adam", "did you mean adamw"), ("optimizer=sgd", "adamw, bam"), ("mlp=nff", "grouped by optimizer")],
)
def test_unknown_baseline(tmp_path, write_run, methods, wanted, message):
    for name in ("bam", "adamw"):
        write_run(tmp_path / name, name)
    with pytest.raises(DataError, match=message):
        find_baseline(wanted, methods(), ["optimizer"])


def test_baseline_that_names_several(tmp_path, write_run, methods):
    for mlp in ("nff", "relu2"):
        write_run(tmp_path / mlp, choices={"mlp": mlp})
    by = ["optimizer", "mlp"]
    grouped = methods(*by)
    with pytest.raises(DataError, match="names 2 methods"):
        find_baseline("optimizer=adamw", grouped, by)
    assert find_baseline("optimizer=adamw,mlp=nff", grouped, by)[0].label == "adamw + nff"
