"""The answer in one line: what the best method's row says, no more and no less."""

import pytest

from ramen.report import compare
from ramen.report.formatting import p_text
from ramen.report.report import answer
from ramen.report.tables import ranking_table


@pytest.fixture
def answered(methods):
    """answered(): the answer and its best row; the baseline is adamw."""

    def answered():
        compared = methods()
        base = next(method for method in compared if method.label == "adamw")
        ranking = ranking_table(compared, base, [])
        return answer(ranking, base, 9), ranking.iloc[0]

    return answered


def test_p_is_the_corrected_one_and_seeds_are_those_that_pair(tmp_path, write_run, answered):
    finals = {"adamw": (3.0, 3.1, 3.2), "bam": (2.9, 2.98, 3.11, 3.0), "muon": (3.0, 3.12, 3.19)}
    for name, values in finals.items():
        for seed, value in enumerate(values):
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, final=value)
    text, best = answered()
    assert p_text(best["p_holm"]) != p_text(best["p"]) and best["n"] == 4
    assert f"paired over 3 seeds; p = {p_text(best['p_holm'])} after Holm's correction): {best['verdict']}." in text


def test_a_baseline_that_never_finished_is_told(tmp_path, write_run, answered):
    write_run(tmp_path / "a", "adamw", status="failed")
    write_run(tmp_path / "b", "bam", final=3.0)
    assert answered()[0].endswith("The baseline adamw has no finished run, so there is no difference to report.")


def test_one_common_seed_is_no_pairing(tmp_path, write_run, answered):
    for name, first, final in (("adamw", 0, 3.5), ("bam", 1, 3.0)):
        for seed in (first, first + 1):
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, final=final + seed / 10)
    text, best = answered()
    said = " ".join(compare(tmp_path).notes)
    assert best["test"] == "Welch" and "seeds not paired, Welch's test" in text
    assert "not paired for want of two common seeds: bam." in said
