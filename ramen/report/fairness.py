"""Checks of a comparison: each finding is one sentence with the numbers, and limits the verdict that it concerns.

The protocol: same data, tokens, seeds, auxiliary optimizer, schedule, shape, precision and machine for all methods, the
same tuning effort, at least three seeds, every run carried to its end. Only the runs that enter the ranking are looked
at (each method at its chosen setting), except for the counts of runs that are missing from it.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from itertools import chain, combinations

from ramen.report.formatting import listed, value_text
from ramen.report.grouping import COST_METRICS, LEAST_SEEDS, LR, LrCurve, Method, matters, varying
from ramen.runs.read import STATUSES, Run

SAME_SIZE, SAME_BUDGET = 1.02, 1.01  # largest over smallest: a width and a number of steps are whole numbers
STEADY = 1.3  # fastest over slowest run of one method on a machine that does nothing else


class Gravity(IntEnum):
    """Effect of a finding on the verdict between two methods that it concerns."""

    NOTED = 0  # none
    GRAVE = 1  # at most "probably"
    VOID = 2  # no verdict: their numbers do not compare


NOTED, GRAVE, VOID = Gravity
Values = dict[str, frozenset[str]]  # by label of a method


@dataclass(frozen=True)
class Finding:
    """One unfairness. It concerns two methods that do not share one of `values`, and every method of `labels`."""

    text: str
    gravity: Gravity = NOTED
    short: str = ""  # in a verdict
    values: Values = field(default_factory=dict)
    labels: frozenset[str] = frozenset()

    def concerns(self, one: str, other: str) -> bool:
        values = self.values.get(one, frozenset()) | self.values.get(other, frozenset())
        return len(values) > 1 or not self.labels.isdisjoint((one, other))


# Facts that all runs should share: title, name in the summary, environment or config (or in `fact`), and gravity where
# methods are ranked by a loss and by a cost (speed, time, memory); that of a cost counts under a budget of seconds, too.
FACTS = (
    ("data", "data_hash", VOID, NOTED),
    ("tokenizers", "data.tokenizer", VOID, NOTED),
    ("sequence lengths", "data.sequence_length", VOID, GRAVE),
    ("validation tokens", "data.validation_tokens", VOID, NOTED),
    ("validation rows", "data.validation", VOID, NOTED),
    ("precision", "precision", GRAVE, GRAVE),
    ("devices (seconds and throughput do not compare)", "device", NOTED, VOID),
    ("numbers of threads", "threads", NOTED, VOID),
    ("attention backends", "attention_backend", NOTED, GRAVE),
    ("kernels", "kernels", NOTED, GRAVE),
    ("compilation", "compile", NOTED, GRAVE),
    ("diagnostics", "diagnostics", NOTED, GRAVE),
    ("torch versions", "versions.torch", NOTED, GRAVE),
    ("ramen versions", "versions.ramen", NOTED, NOTED),
    ("git commits", "git_commit", NOTED, NOTED),
    ("evaluation intervals in steps", "trainer.evaluate_every_steps", NOTED, NOTED),
    ("weight decay", "optimizer.weight_decay", NOTED, NOTED),
    ("token budgets", "tokens", VOID, NOTED),
    ("numbers of steps", "steps", NOTED, NOTED),
    ("numbers of parameters (without embeddings)", "parameters_without_embeddings", GRAVE, GRAVE),
    ("numbers of parameters", "parameters", GRAVE, GRAVE),
    ("FLOPs a token", "flops_per_token", NOTED, NOTED),
)
SIZES = ("parameters_without_embeddings", "parameters", "flops_per_token")
# Of these the first that differs is reported; embeddings, which a choice of model seldom moves, do not hide the rest.
FIRST_OF = (("tokens", "steps"), SIZES)
OF_FACTS = {  # settings that a fact tells of
    "data.bpe_vocabulary", "trainer.steps", "trainer.tokens", "trainer.seconds", "trainer.default_steps",
    *(name for _, name, *_ in FACTS),
}  # fmt: skip
HARMLESS = (  # settings that change speed and memory, and results to rounding
    "trainer.micro_batch_tokens", "trainer.activation_checkpointing", "trainer.cuda_graphs", "trainer.profile_steps",
    "allow_targets",
)  # fmt: skip
NOT_ONE_RUN = ("changed files", "budget.", "code_hash")  # doubts that leave a run without a result
SHOWN = {"data_hash": 12, "git_commit": 10}  # characters
OF_THE_TOKENS = ("long_documents", "shard_tokens", "batching")  # not of the text


def unfairness(methods: list[Method], by: list[str], curves: list[LrCurve]) -> list[Finding]:
    """All findings, the gravest first. `methods` without a finished run are left to the table of failures."""
    ranked = [method for method in methods if method.chosen is not None]
    if not ranked:
        return [Finding("No run finished: there is nothing to rank.")]
    by_cost, timed = ranked[0].metric in COST_METRICS, any(map(_is_timed, _runs(ranked)))
    facts = [*_facts(ranked, by, by_cost, timed)]
    settings = _settings(ranked, by, of_data=all(finding.short != "different data" for finding in facts))
    checks = (
        facts,
        settings,
        _within(ranked, GRAVE if by_cost or timed else NOTED),
        _seeds(ranked),
        _tuning(methods, curves),
    )
    return sorted(chain.from_iterable(checks), key=lambda finding: -finding.gravity)


def tokenizers_differ(methods: list[Method]) -> bool:
    """True if the ranked runs do not share one tokenizer: their losses a token do not compare, bits per byte may."""
    return any(_differ("", _values(methods, "data.tokenizer")))


def _facts(methods: list[Method], by: list[str], by_cost: bool, timed: bool) -> Iterator[Finding]:
    reported: set[str] = set()
    for title, name, of_loss, of_cost in FACTS:
        gravity = of_cost if by_cost else max(of_loss, of_cost) if timed else of_loss
        numbers = [n for run in _runs(methods) if (n := run.metric(name)) > 0]
        ratio = max(numbers) / min(numbers) if numbers else math.nan
        if name == "tokens" and ratio <= SAME_BUDGET:
            gravity = min(gravity, GRAVE)
        elif name == "data.tokenizer" and "per_byte" in methods[0].metric:
            title, gravity = f"{title} (so methods are ranked by bits per byte)", NOTED
        elif name == "data_hash" and tokenizers_differ(methods):
            name = "corpus"
        if name in reported or (name in SIZES and not ratio > SAME_SIZE):
            continue
        if name not in by or gravity == VOID:  # what does not compare does not by being asked for
            for finding in _differ(f"Different {title}", _values(methods, name), gravity):
                reported.update(*(names for names in FIRST_OF if name in names))
                yield finding
    modules = {name for run in _runs(methods) for name in run.facts if name.startswith("code.")}
    for name in sorted(modules):
        yield from _differ(f"Different {name.replace('.', ' of ', 1)}", _values(methods, name), GRAVE)


def fact(name: str, run: Run) -> str | None:
    """A fact of a run in words; None if it is not known."""
    if name == "corpus":  # as the config names it: by another tokenizer the same text has another hash
        keys = sorted(key for key in run.config if key.startswith("data.") and matters(key) and key not in OF_FACTS)
        return json.dumps({key: run.value(key) for key in keys if key.removeprefix("data.") not in OF_THE_TOKENS})
    if name == "data.tokenizer":  # shards that come tokenized have GPT-2's
        tokenizer = run.value(name) or ("gpt2" if run.value("data.repo") else None)
        return f"bpe of {run.value('data.bpe_vocabulary')}" if tokenizer == "bpe" else tokenizer and str(tokenizer)
    if name == "optimizer.weight_decay":
        return ("cautious" if run.value("optimizer.cautious") else "plain") if run.value(name) else None
    if name == "tokens" and _is_timed(run):
        return f"{run.value('trainer.seconds')} s"
    if math.isfinite(n := run.metric(name)):
        return f"{n:,.0f}"
    if run.facts.get(name) or name in ("data_hash", "device", "threads"):  # whose configs only ask
        return run.facts[name][: SHOWN.get(name)] if name in run.facts else None
    return value_text(run.value(name)) if name in (*run.config, *run.choices) else None


def _settings(methods: list[Method], by: list[str], of_data: bool) -> Iterator[Finding]:
    """Config values other than the grouping, what was tuned, and what a method's own options bring along."""
    runs = _runs(methods)
    tuned = [{key for setting in method.settings for key, _ in setting} for method in methods]
    settled = {*by, LR, *OF_FACTS, *set.intersection(*tuned)}
    settled |= {key for keys in tuned for key in keys if key.startswith("optimizer.") and key != "optimizer._target_"}
    sections = tuple(f"{key}." for key in by) + (() if of_data else ("data.",))
    by_section: dict[str, list[str]] = {}
    for key in varying(runs):
        if key not in settled and not key.startswith(sections):
            by_section.setdefault(key.split(".", 1)[0] if key not in HARMLESS else "speed", []).append(key)
    for section, keys in by_section.items():
        keys = [section] if len({run.choices.get(section) for run in runs}) > 1 else keys
        details = [detail for key in keys for detail in _differ(key, _values(methods, partial(_value, key)))]
        text = "; ".join(detail.text.removesuffix(".") for detail in details[:3])
        more = f"; and {len(keys) - 3} more keys" if len(keys) > 3 else ""
        values = {m.label: frozenset(repr([*map(run.value, keys)]) for run in _runs([m])) for m in methods}
        gravity = NOTED if section == "speed" else GRAVE
        yield Finding(f"Different {section} settings: {text}{more}.", gravity, f"different {listed(keys, 2)}", values)


def _within(methods: list[Method], of_speed: Gravity) -> Iterator[Finding]:
    """Runs of a method that differ in more than the seed, or were changed, extended, moved or lost."""
    code, speed, skipped = {}, {}, {}
    for method in methods:
        label, runs = method.label, _runs([method])
        if len({run.facts.get("code_hash") or run.facts.get("git_diff") for run in runs}) > 1:
            code[label] = "several"
        rates = [rate for run in runs if (rate := run.metric("tokens_per_second")) > 0]
        if rates and max(rates) > STEADY * min(rates):
            speed[label] = f"{max(rates) / min(rates):.1f} times"
        if steps := sum(run.summary.get("skipped_steps", 0) for run in runs):
            skipped[label] = f"{steps:.0f}"
        doubts: dict[str, list[str]] = {}
        for run in method.runs:
            for short, text in run.doubts.items():
                if short == "changed files" or run in runs:  # a changed file may change the choice
                    doubts.setdefault(short, []).append(text)
        for short, lines in doubts.items():
            gravity = VOID if short.startswith(NOT_ONE_RUN) else NOTED if short == "lost records" else of_speed
            yield Finding(f"{label}: {listed(lines, 3)}.", gravity, short, labels=frozenset([label]))
        at_chosen = [run for run in method.runs if all(run.value(key) == value for key, value in method.chosen or ())]
        if lost := sum(run.status == "diverged" for run in at_chosen):
            text = f"{label} at {method.setting_text or 'its setting'}: {lost} diverged"
            text += f", so the mean of the other {len(runs)} flatters it."
            yield Finding(text, VOID, f"a seed of {label} diverged", labels=frozenset([label]))
    for title, texts, gravity, short in (
        ("Different code within a method, whose mean is of several programs:", code, VOID, "runs of different code"),
        ("Skipped steps (not finite):", skipped, GRAVE, "skipped steps"),
        ("Seconds and throughput do not compare: a seed was faster by", speed, of_speed, "unsteady machine"),
    ):
        if texts:
            yield Finding(f"{title} {_by_value(texts)}.", gravity, short, labels=frozenset(texts))


def _seeds(methods: list[Method]) -> Iterator[Finding]:
    seeds = {m.label: sorted(m.chosen_runs, key=lambda seed: (str(type(seed)), seed)) for m in methods}
    values = {label: frozenset([", ".join(map(str, several))]) for label, several in seeds.items()}
    yield from _differ("Different seeds", values, advice=" Only common seeds are paired.")
    if unknown := sum(isinstance(seed, str) for several in seeds.values() for seed in several):
        yield Finding(f"Ranked runs without a recorded seed, which cannot be paired: {unknown}.")
    if few := {label: f"n = {len(several)}" for label, several in seeds.items() if len(several) < LEAST_SEEDS}:
        yield Finding(f"Fewer than {LEAST_SEEDS} seeds: {_by_value(few)}. A difference needs seeds to be believed.")
    if n := sum(method.repeats for method in methods):
        yield Finding(f"Repeated runs, of which the last by folder name is used (same setting and seed): {n}.")
    for a, b in combinations(methods, 2):
        common = a.scores.keys() & b.scores.keys()
        if common and all(a.scores[seed] == b.scores[seed] for seed in common):
            yield Finding(f"{a.label} and {b.label} have exactly the same {a.metric} at every common seed: one run?")


def _tuning(methods: list[Method], curves: list[LrCurve]) -> Iterator[Finding]:
    settings = {method.label: method.settings for method in methods if method.chosen is not None}
    counts = {label: frozenset([str(len(tried))]) for label, tried in settings.items()}
    advice = " More tries find a lower loss by luck."
    yield from _differ("Unequal tuning, settings tried", counts, GRAVE, advice)
    for curve in [curve for curve in curves if curve.flaw == "edge"][:12]:
        short = f"{curve.label}'s best rate is on the edge of its grid"
        yield Finding(f"Not tuned: {curve.remark}", GRAVE, short, labels=frozenset([curve.label]))
    if single := [curve.label for curve in curves if curve.flaw == "single"]:
        yield Finding(f"Not tuned: only one learning rate tried for {listed(single, 8)}.")
    if keys := [*dict.fromkeys(key for tried in settings.values() for s in tried for key, _ in s if key != LR)]:
        text = f"Within a method the runs also vary in {listed(keys, 6)}"
        yield Finding(f"{text}: each method is shown at its best; --by separates them.")
    missing = [f"{m.label} {n} {status}" for status in STATUSES[1:] for m in methods if (n := m.count(status))]
    if missing:
        yield Finding(f"Runs without a place in a mean: {listed(missing, 12)}.")


def _is_timed(run: Run) -> bool:
    """True for a budget of seconds alone: how many tokens it pays for is part of the result."""
    keys = ("trainer.steps", "trainer.tokens")
    return run.value("trainer.seconds") is not None and all(run.value(key) is None for key in keys)


def _runs(methods: list[Method]) -> list[Run]:
    return [run for method in methods for run in method.chosen_runs.values()]


def _value(key: str, run: Run) -> str:
    return value_text(run.value(key))


def _values(methods: list[Method], value: str | Callable[[Run], str | None]) -> Values:
    """The values of a method's runs; those that are not known (None) left out. `value`: of a run, or a fact's name."""
    of = partial(fact, value) if isinstance(value, str) else value
    return {m.label: frozenset(v for run in _runs([m]) if (v := of(run)) is not None) for m in methods}


def _differ(title: str, values: Values, gravity: Gravity = NOTED, advice: str = "") -> Iterator[Finding]:
    """`title: a (adamw, muon); b (bam).` unless all values are one, or are missing and cannot be compared."""
    if len(frozenset().union(*values.values())) > 1:
        texts = {label: " and ".join(sorted(several)[:3]) for label, several in values.items() if several}
        short = re.split(r" \(|, ", title)[0]
        short = short[:1].lower() + short[1:]
        yield Finding(f"{title}: {_by_value(texts)}.{advice}", gravity, short, values)


def _by_value(texts: dict[str, str]) -> str:
    labels: dict[str, list[str]] = {}
    for label, text in texts.items():
        labels.setdefault(text, []).append(label)
    parts = [f"{text} ({listed(names, 6)})" for text, names in labels.items()]
    return "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")
