"""What makes a comparison unfair: each finding is one plain sentence with the numbers, and what it does to a verdict.

The protocol: same data, tokens, seeds, auxiliary optimizer, schedule, shape, precision and machine for all methods, the
same tuning effort, at least three seeds, every run carried to its end. Only the runs that enter the ranking are looked
at (each method at its chosen setting), except for the counts of runs that are missing from it.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from itertools import combinations

from ramen.report.formatting import listed, value_text
from ramen.report.grouping import matters, varying
from ramen.report.method import COST_METRICS, LEAST_SEEDS, LR, LrCurve, Method
from ramen.runs.read import STATUSES, Run

SAME_SIZE, SAME_BUDGET = 1.02, 1.01  # largest over smallest: a width and a number of steps are whole numbers
STEADY = 1.3  # fastest over slowest run of one method on a machine that does nothing else


class Gravity(IntEnum):
    """Effect of a finding on the verdict between two methods that it concerns."""

    TOLD = 0  # none
    GRAVE = 1  # at most "probably"
    VOID = 2  # no verdict: their numbers do not compare


TOLD, GRAVE, VOID = Gravity
Value = Callable[[Run], str | None]  # None: not known


@dataclass(frozen=True)
class Finding:
    """One unfairness. It concerns two methods that do not share one of `values`, and every method of `labels`."""

    text: str
    gravity: Gravity = TOLD
    short: str = ""  # in a verdict
    values: dict[str, frozenset[str]] = field(default_factory=dict)  # by label
    labels: frozenset[str] = frozenset()

    def concerns(self, one: str, other: str) -> bool:
        values = self.values.get(one, frozenset()) | self.values.get(other, frozenset())
        return len(values) > 1 or not self.labels.isdisjoint((one, other))


# Facts that all runs should share: title, name in the summary, environment or config, and gravity where methods are ranked
# by a loss and by a cost (speed, time, memory); that of a cost counts under a budget of seconds, too.
FACTS = (
    ("Different tokenizers", "data.tokenizer", VOID, TOLD),
    ("Different sequence lengths", "data.sequence_length", VOID, GRAVE),
    ("Different validation tokens", "data.validation_tokens", VOID, TOLD),
    ("Different validation rows", "data.validation", VOID, TOLD),
    ("Different precision", "precision", GRAVE, GRAVE),
    ("Different devices (seconds and throughput do not compare)", "device", TOLD, VOID),
    ("Different numbers of threads", "threads", TOLD, VOID),
    ("Different attention backends", "attention_backend", TOLD, GRAVE),
    ("Different kernels", "kernels", TOLD, GRAVE),
    ("Different compilation", "compile", TOLD, GRAVE),
    ("Different diagnostics", "diagnostics", TOLD, GRAVE),
    ("Different torch versions", "versions.torch", TOLD, GRAVE),
    ("Different ramen versions", "versions.ramen", TOLD, TOLD),
    ("Different git commits", "git_commit", TOLD, TOLD),
    ("Different evaluation intervals in steps", "trainer.evaluate_every_steps", TOLD, TOLD),
    ("Different weight decay", "optimizer.weight_decay", TOLD, TOLD),
)
OF_FACTS = {  # settings that a fact or a budget tells of
    "data.bpe_vocabulary", "trainer.steps", "trainer.tokens", "trainer.seconds", "trainer.default_steps",
    *(name for _, name, *_ in FACTS),
}  # fmt: skip
HARMLESS = (  # settings that change speed and memory, and results to rounding
    "trainer.micro_batch_tokens", "trainer.activation_checkpointing", "trainer.cuda_graphs", "trainer.profile_steps",
    "allow_targets",
)  # fmt: skip
SIZES = (  # the first that differs is told; embeddings, which a choice of model seldom moves, do not hide it
    ("numbers of parameters (without embeddings)", "parameters_without_embeddings", GRAVE),
    ("numbers of parameters", "parameters", GRAVE),
    ("FLOPs a token", "flops_per_token", TOLD),
)
NOT_ONE_RUN = ("changed files", "budget.", "code_hash")  # doubts that leave a run without a result
OF_THE_TOKENS = ("long_documents", "shard_tokens", "batching")  # not of the text


def unfairness(methods: list[Method], by: list[str], curves: list[LrCurve]) -> list[Finding]:
    """All findings, the gravest first. `methods` without a finished run are left to the table of failures."""
    ranked = [method for method in methods if method.chosen is not None]
    if not ranked:
        return [Finding("No run finished: there is nothing to rank.")]
    by_cost, per_byte = ranked[0].metric in COST_METRICS, "per_byte" in ranked[0].metric
    timed = any(_is_timed(run) for method in ranked for run in method.chosen_runs.values())
    findings = []
    for title, name, of_loss, of_cost in FACTS:
        gravity = of_cost if by_cost else max(of_loss, of_cost) if timed else of_loss
        if name == "data.tokenizer" and per_byte:
            title, gravity = f"{title} (so methods are ranked by bits per byte)", TOLD
        if name not in by or gravity == VOID:  # what does not compare does not by being asked for
            findings.append(_differing(ranked, title, partial(_fact, name), gravity))
    of_data = _corpus if tokenizers_differ(ranked) else lambda run: run.data_hash and run.data_hash[:12]
    data = _differing(ranked, "Different data", of_data, TOLD if by_cost else VOID)
    checks = (
        _budgets(ranked, TOLD if by_cost else VOID),
        _settings(ranked, by, of_data=data is None),
        _sizes(ranked),
        _steadiness(ranked, GRAVE if by_cost or timed else TOLD),
        _doubts(ranked, GRAVE if by_cost or timed else TOLD),
        _seeds(ranked),
        _tuning(ranked, curves),
        _missing(methods),
    )
    found = [finding for finding in (data, *findings, *(f for check in checks for f in check)) if finding]
    return sorted(found, key=lambda finding: -finding.gravity)


def tokenizers_differ(methods: list[Method]) -> bool:
    """True if the ranked runs do not share one tokenizer: their losses a token do not compare, bits per byte may."""
    ranked = [method for method in methods if method.chosen is not None]
    return bool(_differing(ranked, "", partial(_fact, "data.tokenizer")))


def _fact(name: str, run: Run) -> str | None:
    """A fact of a run in words; None if it is not known."""
    if name == "data.tokenizer":  # shards that come tokenized have GPT-2's
        tokenizer = run.value(name) or ("gpt2" if run.value("data.repo") else None)
        return f"bpe of {run.value('data.bpe_vocabulary')}" if tokenizer == "bpe" else tokenizer and str(tokenizer)
    if name == "optimizer.weight_decay":
        return ("cautious" if run.value("optimizer.cautious") else "plain") if run.value(name) else None
    if name == "git_commit":
        return run.commit and run.commit[:10]
    if run.fact(name) or name in ("device", "threads"):  # whose configs only ask
        return run.fact(name)
    return value_text(run.value(name)) if name in (*run.config, *run.choices) else None


def _budgets(methods: list[Method], gravity: Gravity) -> Iterator[Finding]:
    def budget(run: Run) -> str | None:
        return f"{run.value('trainer.seconds')} s" if _is_timed(run) else _count("tokens")(run)

    tokens = [run.metric("tokens") for method in methods for run in method.chosen_runs.values()]
    if max(tokens) <= SAME_BUDGET * min(tokens):
        gravity = min(gravity, GRAVE)
    steps = _differing(methods, "Different numbers of steps", _count("steps"))
    if finding := _differing(methods, "Different token budgets", budget, gravity) or steps:
        yield finding


def _settings(methods: list[Method], by: list[str], of_data: bool) -> Iterator[Finding]:
    """Config values other than the grouping, what was tuned, and what a method's own options bring along."""
    runs = [run for method in methods for run in method.chosen_runs.values()]
    tuned = [{key for setting in method.tried for key, _ in setting} for method in methods]
    settled = {*by, LR, *OF_FACTS, *set.intersection(*tuned)}
    settled |= {key for keys in tuned for key in keys if key.startswith("optimizer.") and key != "optimizer._target_"}
    sections = tuple(f"{key}." for key in by) + (() if of_data else ("data.",))
    by_section: dict[str, list[str]] = {}
    for key in varying(runs):
        if key not in settled and not key.startswith(sections):
            by_section.setdefault(key.split(".", 1)[0] if key not in HARMLESS else "speed", []).append(key)
    for section, keys in by_section.items():
        keys = [section] if len({run.choices.get(section) for run in runs}) > 1 else keys
        details = [_differing(methods, key, _value(key)) for key in keys]
        text = "; ".join(detail.text.removesuffix(".") for detail in details[:3] if detail)
        more = f"; and {len(keys) - 3} more keys" if len(keys) > 3 else ""
        values = {m.label: frozenset(repr([*map(r.value, keys)]) for r in m.chosen_runs.values()) for m in methods}
        gravity = TOLD if section == "speed" else GRAVE
        yield Finding(f"Different {section} settings: {text}{more}.", gravity, f"different {listed(keys, 2)}", values)


def _sizes(methods: list[Method]) -> Iterator[Finding | None]:
    for title, name, gravity in SIZES:
        sizes = [n for method in methods for run in method.chosen_runs.values() if (n := run.metric(name)) > 0]
        if sizes and max(sizes) > SAME_SIZE * min(sizes):
            yield _differing(methods, f"Different {title}", _count(name), gravity)
            return


def _steadiness(methods: list[Method], gravity: Gravity) -> Iterator[Finding]:
    """Runs that differ in nothing but the seed are of the same code, equally fast, and skip no steps."""
    code, speed, skipped = {}, {}, {}
    for method in methods:
        label, runs = method.label, list(method.chosen_runs.values())
        if len({run.fact("code_hash") or run.fact("git_diff") for run in runs}) > 1:
            code[label] = "several"
        rates = [rate for run in runs if (rate := run.metric("tokens_per_second")) > 0]
        if rates and max(rates) > STEADY * min(rates):
            speed[label] = f"{max(rates) / min(rates):.1f} times"
        if steps := sum(run.summary.get("skipped_steps", 0) for run in runs):
            skipped[label] = f"{steps:.0f}"
    for title, texts, weight, short in (
        ("Different code within a method, whose mean is of several programs:", code, VOID, "runs of different code"),
        ("Skipped steps (not finite):", skipped, GRAVE, "skipped steps"),
        ("Seconds and throughput do not compare: a seed was faster by", speed, gravity, "unsteady machine"),
    ):
        if texts:
            yield Finding(f"{title} {_by_value(texts)}.", weight, short, labels=frozenset(texts))
    modules = {name for method in methods for run in method.chosen_runs.values() for name in run.facts}
    for name in sorted(name for name in modules if name.startswith("code.")):
        if finding := _differing(methods, f"Different {name.replace('.', ' of ', 1)}", partial(_fact, name), GRAVE):
            yield finding


def _doubts(methods: list[Method], of_cost: Gravity) -> Iterator[Finding]:
    """Runs that were changed, extended or moved: their numbers may not be those of a fresh run."""
    for method in methods:
        texts: dict[str, list[str]] = {}
        for run in method.runs:
            for short, text in run.doubts.items():
                if (
                    short == "changed files" or run in method.chosen_runs.values()
                ):  # a changed file may change the choice
                    texts.setdefault(short, []).append(text)
        for short, lines in texts.items():
            gravity = VOID if short.startswith(NOT_ONE_RUN) else TOLD if short == "lost records" else of_cost
            yield Finding(f"{method.label}: {listed(lines, 3)}.", gravity, short, labels=frozenset([method.label]))


def _seeds(methods: list[Method]) -> Iterator[Finding]:
    sets = {m.label: ", ".join(map(str, sorted(m.chosen_runs, key=lambda s: (str(type(s)), s)))) for m in methods}
    if len(set(sets.values())) > 1:
        yield Finding(f"Different seeds: {_by_value(sets)}. Only common seeds are paired.")
    if unknown := sum(isinstance(seed, str) for method in methods for seed in method.chosen_runs):
        yield Finding(f"Ranked runs without a recorded seed, which cannot be paired: {unknown}.")
    if few := {m.label: f"n = {len(m.chosen_runs)}" for m in methods if len(m.chosen_runs) < LEAST_SEEDS}:
        yield Finding(f"Fewer than {LEAST_SEEDS} seeds: {_by_value(few)}. A difference needs seeds to be believed.")
    if n := sum(method.repeats for method in methods):
        yield Finding(f"Repeated runs, of which the last by folder name is used (same setting and seed): {n}.")
    for a, b in combinations(methods, 2):
        common = a.scores.keys() & b.scores.keys()
        if common and all(a.scores[seed] == b.scores[seed] for seed in common):
            yield Finding(f"{a.label} and {b.label} have exactly the same {a.metric} at every common seed: one run?")


def _tuning(methods: list[Method], curves: list[LrCurve]) -> Iterator[Finding]:
    counts = {method.label: f"{len(method.tried)}" for method in methods}
    if len(set(counts.values())) > 1:
        text = f"Unequal tuning, settings tried: {_by_value(counts)}. More tries find a lower loss by luck."
        yield Finding(text, GRAVE, "unequal tuning", {label: frozenset([count]) for label, count in counts.items()})
    for curve in [curve for curve in curves if curve.flaw == "edge"][:12]:
        text, short = f"Not tuned: {curve.remark}", f"{curve.label}'s best rate is on the edge of its grid"
        yield Finding(text, GRAVE, short, labels=frozenset([curve.label]))
    if single := [curve.label for curve in curves if curve.flaw == "single"]:
        yield Finding(f"Not tuned: only one learning rate tried for {listed(single, 8)}.")
    if keys := [*dict.fromkeys(key for m in methods for setting in m.tried for key, _ in setting if key != LR)]:
        text = f"Within a method the runs also vary in {listed(keys, 6)}"
        yield Finding(f"{text}: each method is shown at its best; --by separates them.")


def _missing(methods: list[Method]) -> Iterator[Finding]:
    unranked = [f"{m.label} {n} {status}" for status in STATUSES[1:] for m in methods if (n := m.count(status))]
    if unranked:
        yield Finding(f"Runs without a place in a mean: {listed(unranked, 12)}.")
    for method in methods:
        at_chosen = [run for run in method.runs if all(run.value(key) == value for key, value in method.chosen or ())]
        if method.chosen is not None and (lost := sum(run.status == "diverged" for run in at_chosen)):
            label, others = method.label, len(method.chosen_runs)
            text = (
                f"{label} at {method.setting_text or 'its setting'}: {lost} diverged, so the mean of the other {others}"
            )
            yield Finding(f"{text} flatters it.", VOID, f"a seed of {label} diverged", labels=frozenset([label]))


def _differing(methods: list[Method], title: str, value: Value, gravity: Gravity = TOLD) -> Finding | None:
    """`title: a (adamw, muon); b (bam).`, or None if all runs agree or (a value missing) cannot be compared."""
    values = {m.label: frozenset(v for run in m.chosen_runs.values() if (v := value(run)) is not None) for m in methods}
    if len(frozenset().union(*values.values())) < 2:
        return None
    texts = {label: " and ".join(sorted(found)[:3]) for label, found in values.items() if found}
    short = title.partition(" (")[0]
    return Finding(f"{title}: {_by_value(texts)}.", gravity, short[:1].lower() + short[1:], values)


def _by_value(texts: dict[str, str]) -> str:
    labels: dict[str, list[str]] = {}
    for label, text in texts.items():
        labels.setdefault(text, []).append(label)
    parts = [f"{text} ({listed(names, 6)})" for text, names in labels.items()]
    return "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")


def _value(key: str) -> Value:
    return lambda run: value_text(run.value(key))


def _corpus(run: Run) -> str:
    """The corpus as the config names it: by another tokenizer the same text has another hash."""
    keys = sorted(key for key in run.config if key.startswith("data.") and matters(key) and key not in OF_FACTS)
    return json.dumps({key: run.value(key) for key in keys if key.removeprefix("data.") not in OF_THE_TOKENS})


def _is_timed(run: Run) -> bool:
    """True for a budget of seconds alone: how many tokens it pays for is part of the result."""
    keys = ("trainer.steps", "trainer.tokens")
    return run.value("trainer.seconds") is not None and all(run.value(key) is None for key in keys)


def _count(name: str) -> Value:
    return lambda run: f"{n:,.0f}" if math.isfinite(n := run.metric(name)) else None
