"""Every option of every part of the model beside every option of every other part: alive, and without a leak.

A few dozen tiny models in which each pair of options occurs at least once (a covering array, made greedily from conf/, so a new
option is in it the moment it exists). What two parts refuse of each other is listed, and refused.
"""

import itertools
from typing import Any

import pytest
import torch

from ramen.build.dry_run import dry_run
from ramen.build.objects import build_groups, build_model, build_optimizers
from ramen.config.kinds import PARTS
from ramen.config.registry import options
from ramen.errors import ConfigError
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import generator, initialise

BOS, VOCABULARY, LENGTH = 0, 37, 24
SIZE = ("model.layers=4", "model.dim=16", "model.heads=2")
ATTENTIONS = {
    "all": (),
    "long_short": ("attention.pattern=SSL", "attention.long_window_tokens=9", "attention.short_window_tokens=3"),
    "absent": ("attention.pattern=LN",),
    "key_offset": ("attention.key_offset=true", "attention.gate_inputs=12"),
    "paired": ("attention.paired_layers=[0,2]", "attention.long_window_tokens=5"),
    "xsa": ("attention.xsa=true", "attention.qk_norm=false"),
    "matrices": ("attention.qk_matrix_heads=1", "attention.output_init_scale=0.5"),
}
AHEAD = {"next": (), "two": ("model.mtp_weights=[0.5]",)}
MORE = {("stream", "modded"): ("stream.bigram_rows=50",), ("norm", "layer"): ("norm.bias=true",)}
REFUSED = {
    frozenset({("mlp", "nff"), ("linear", "low_rank")}): "cannot keep its rows at unit length",
    frozenset(
        {("attention", "key_offset"), ("position", "rope")}
    ): "key_offset needs a position that leaves dimensions unturned",
}
Case = dict[str, str]


def factors() -> dict[str, list[str]]:
    kinds = {kind: sorted(options(kind)) for kind in PARTS if kind != "attention"}
    return {"attention": list(ATTENTIONS), "ahead": list(AHEAD), **kinds}


def covering(levels: dict[str, list[str]]) -> list[Case]:
    """Cases in which every allowed pair of levels of two factors occurs."""
    cells = [(factor, level) for factor, names in levels.items() for level in names]
    pairs = (frozenset(pair) for pair in itertools.combinations(cells, 2) if pair[0][0] != pair[1][0])
    left = dict.fromkeys(pair for pair in pairs if pair not in REFUSED)
    cases = []
    while left:
        case = dict(sorted(next(iter(left))))
        for factor in levels:
            if factor not in case:
                case[factor] = max(levels[factor], key=lambda level: gain((factor, level), case, left))
        for pair in itertools.combinations(case.items(), 2):
            left.pop(frozenset(pair), None)
        cases.append(case)
    return cases


def gain(cell: tuple[str, str], case: Case, left: dict[frozenset[tuple[str, str]], None]) -> int:
    """Pairs that a further level would cover; -1 if it is refused beside one that is in the case."""
    pairs = [frozenset((cell, other)) for other in case.items()]
    return -1 if any(pair in REFUSED for pair in pairs) else sum(pair in left for pair in pairs)


def words(case: Case) -> list[str]:
    chosen = [f"{kind}={name}" for kind, name in case.items() if kind not in ("attention", "ahead")]
    more = [word for cell in case.items() for word in MORE.get(cell, ())]
    return [*chosen, *more, *ATTENTIONS[case.get("attention", "all")], *AHEAD[case.get("ahead", "next")]]


CASES = covering(factors())


def model_of(config: dict[str, Any], noise: float = 0.0) -> Any:
    model: Any = build_model(config, DataSpec(VOCABULARY, BOS, LENGTH))
    initialise(model, 0)
    with torch.no_grad():
        for name, value in model.named_parameters() if noise else ():
            value += noise * torch.randn(value.shape, generator=generator(0, f"noise of {name}"))
    model.after_step()
    return model


def test_the_array_is_small_and_complete() -> None:
    levels = factors()
    seen = {frozenset(pair) for case in CASES for pair in itertools.combinations(case.items(), 2)}
    for (first, names), (second, others) in itertools.combinations(levels.items(), 2):
        wanted = {frozenset(((first, a), (second, b))) for a in names for b in others}
        assert wanted - seen <= set(REFUSED)
    assert not seen & set(REFUSED)
    assert len(CASES) < 2 * max(len(a) * len(b) for a, b in itertools.combinations(levels.values(), 2))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_every_parameter_learns_and_nothing_leaks(compose, rows, case) -> None:
    config = compose(*SIZE, *words(case))
    tokens = rows((9, 15), (24,), (1, 12, 11))
    targets = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), dim=1)

    model = model_of(config)
    optimizers = build_optimizers(config, build_groups(config, model))
    losses = []
    for step in range(3):
        if step == 2 and model.embedding.split_at:
            model.embedding.split()
        model.zero_grad()
        loss = model(tokens, targets) / 60
        loss.backward()
        losses.append(loss.item())
        dead = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        broken = [
            name
            for name, value in model.named_parameters()
            if value.grad is not None and not value.grad.isfinite().all()
        ]
        assert not broken and torch.isfinite(loss), broken
        optimizers.step()
        model.after_step()
    assert dead == []
    assert losses[2] < losses[0]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(tokens, targets)
    assert narrow.item() == pytest.approx(model(tokens, targets).item(), rel=0.02)

    model = model_of(config, noise=0.3).eval()
    documents, before = (tokens == BOS).cumsum(-1), model(tokens)
    assert before.isfinite().all()
    for b, t in ((0, 8), (0, 12), (1, 20), (2, 12)):  # two of them the last of their documents
        changed = tokens.clone()
        changed[b, t] = tokens[b, t] % 36 + 1
        moved = (model(changed) != before).any(-1)
        allowed = torch.zeros_like(moved)
        allowed[b, t:] = documents[b, t:] == documents[b, t]
        assert moved[b, t] and not (moved & ~allowed).any(), (b, t)


SWITCHES = [
    [], ["attention.pattern=LN"], ["attention.long_window_tokens=5"], ["attention.key_offset=true"], ["attention.gate_inputs=12"],
    ["attention.paired_layers=[0]"], ["attention.paired_layers=[1]"], ["attention.xsa=true"], ["attention.qk_matrix_heads=1"],
    ["attention.scale=0.7"], ["attention.output_init_scale=0.5"], ["stream=modded"], ["stream=modded", "stream.bigram_rows=50"],
    ["stream=modded", "stream.bigram_rows=9"], ["model.softcap=null"], ["model.mtp_weights=[0.5]"],
    ["model.mtp_weights=[0.5,0.25]"], ["norm=rms_gain"], ["norm=layer"], ["norm=layer", "norm.bias=true"], ["position=learned"],
    ["position=learned", "position.init_std=0.1"], ["linear.init=normal"], ["model.embedding_norm=false"],
    ["model.embedding_norm=false", "norm=rms_gain"],
]  # fmt: skip


def test_no_switch_of_an_option_is_without_effect(compose, rows) -> None:
    """Two steps with each, from the same start: no two losses afterwards are the same."""
    tokens, found = rows((9, 15), (24,)), {}
    targets = tokens.roll(-1, dims=1)
    for switches in SWITCHES:
        config = compose(*SIZE[1:], "model.layers=2", *switches)
        model = model_of(config)
        optimizers = build_optimizers(config, build_groups(config, model))
        for _ in range(2):
            model.zero_grad()
            (model.train()(tokens, targets) / 48).backward()
            optimizers.step()
        found[" ".join(switches)] = model.eval()(tokens, targets).item()
    assert len({round(loss, 3) for loss in found.values()}) == len(SWITCHES), found


@pytest.mark.parametrize(
    ("pair", "message"),
    REFUSED.items(),
    ids=lambda value: "-".join(sorted(name for _, name in value)) if isinstance(value, frozenset) else "",
)
def test_what_cannot_go_together_is_refused_before_data_is_read(compose, pair, message) -> None:
    with pytest.raises(ConfigError, match=message):
        dry_run(compose(*SIZE, *words(dict(pair))), DataSpec(VOCABULARY, BOS, LENGTH), torch.float32)
