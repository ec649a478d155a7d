"""The answer in one line: what the best method's row says, no more and no less."""

import pytest

from ramen.report import compare
from ramen.report.formatting import p_text


@pytest.fixture
def answered(tmp_path):
    """answered(): the answer and its best row; the baseline is adamw."""

    def answered():
        report = compare(tmp_path)
        return report.answer, report.ranking.query("comparable").iloc[0]

    return answered


def test_p_is_the_corrected_one_and_seeds_are_those_that_pair(tmp_path, write_run, answered):
    finals = {"adamw": (3.0, 3.1, 3.2), "bam": (2.9, 2.98, 3.11, 3.0), "muon": (3.0, 3.12, 3.19)}
    for name, values in finals.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, final=value)
    text, best = answered()
    assert p_text(best["p_holm"]) != p_text(best["p"]) and best["n"] == 4
    assert f"paired over 3 seeds; p = {p_text(best['p_holm'])} after Holm's correction): {best['verdict']}." in text


def test_a_baseline_that_never_finished_is_told(tmp_path, write_run):
    write_run(tmp_path / "a", "adamw", status="failed")
    write_run(tmp_path / "b", "bam", final=3.0)
    answer = compare(tmp_path, baseline="adamw").answer
    assert answer.endswith("The baseline adamw has no finished run, so there is no difference to report.")


def test_one_common_seed_is_no_pairing(tmp_path, write_run, answered):
    for name, first, final in (("adamw", 0, 3.5), ("bam", 1, 3.0)):
        for seed in (first, first + 1):
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, final=final + seed / 10)
    text, best = answered()
    said = " ".join(compare(tmp_path).notes)
    assert best["test"] == "Welch" and "seeds not paired, Welch's test" in text
    assert "not paired for want of two common seeds: bam." in said


@pytest.mark.parametrize(
    ("finals", "answer"),
    [
        ({}, "None of 1 runs finished with a finite final_val_loss: nothing can be compared."),
        ({"adamw": 3.0}, "adamw has the lowest final_val_loss: 3.0000 (n = 1). There is nothing to compare it with."),
        (
            {"adamw": 3.0, "bam": 3.1},
            "adamw has the lowest final_val_loss: 3.0000 (n = 1), and it is the baseline. Next is bam, +0.1000 against adamw "
            "(no verdict: n = 1).",
        ),
        ({"adamw": 3.0, "odd": 2.0}, "No verdict against adamw on odd (different token budgets)."),
    ],
)
def test_without_a_result_the_answer_says_so(tmp_path, write_run, finals, answer):
    for name, final in finals.items():
        write_run(tmp_path / name, name, final=final, summary={"tokens": 9999} if name == "odd" else {})
    if not finals:
        write_run(tmp_path / "failed", status="failed")
    assert compare(tmp_path).answer == answer


@pytest.mark.parametrize(("gap", "seeds"), [(0.001, "about "), (0.00001, "more than 1,000 seeds")])
def test_an_unclear_difference_names_the_seeds_it_would_take(tmp_path, write_run, answered, gap, seeds):
    for name, shifts in {"adamw": (0, 0, 0), "bam": (0.01 - gap, -0.01 - gap, -gap)}.items():
        for seed, shift in enumerate(shifts):
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, final=3 + seed / 10 + shift)
    text = answered()[0]
    assert (
        "no clear difference; a difference of this size would take " in text
        and seeds in text
        and text.endswith("seeds.")
    )
