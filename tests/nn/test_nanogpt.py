"""experiment=nanogpt_char_cpu is nanoGPT's run: model, batches, learning rate and steps beside a plain writing of each.

The model is written here from the published architecture (GPT-2 without biases and dropout), by torch's own modules.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramen.build.objects import build_model, build_schedules
from ramen.nn.gpt import DataSpec
from ramen.nn.parameter import initialise
from ramen.training.loop import Trainer

TEXT = "".join(f"{n} is {n * n % 97}, and {chr(97 + n % 26) * (n % 5)};\n" for n in range(900))
LAYERS, DIM, HEADS, LENGTH, ROWS, STEPS = 2, 32, 4, 16, 12, 10
SIZE = (f"model.layers={LAYERS}", f"model.dim={DIM}", f"model.heads={HEADS}", f"data.sequence_length={LENGTH}")


class Layer(nn.Module):
    """Attention, then the MLP, each on the LayerNorm of the stream and added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, bias=False), nn.LayerNorm(DIM, bias=False)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.up, self.down = nn.Linear(DIM, 4 * DIM, bias=False), nn.Linear(4 * DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> same
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(DIM, -1))
        logits = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T)
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        mixed = logits.masked_fill(future, -torch.inf).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """Token and position tables, layers, LayerNorm, and the token table again as the head."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, DIM), nn.Embedding(LENGTH, DIM)
        self.layers, self.norm = nn.ModuleList(Layer() for _ in range(LAYERS)), nn.LayerNorm(DIM, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def mapped(model: Any, plain: Plain, read: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """What `read` says of our model's parameters, under the plain model's names and in its shapes."""
    found = {
        "tokens.weight": read(model.embedding.weight)[: plain.tokens.num_embeddings],
        "positions.weight": read(model.position.weight),
        "norm.weight": read(model.final_norm.gain),
    }
    for i, block in enumerate(model.blocks):
        qkvo = read(block.attention.qkvo.weight)
        found |= {
            f"layers.{i}.norm1.weight": read(block.attention_norm.gain),
            f"layers.{i}.norm2.weight": read(block.mlp_norm.gain),
            f"layers.{i}.qkv.weight": qkvo[:3].flatten(0, 1),
            f"layers.{i}.out.weight": qkvo[3],
            f"layers.{i}.up.weight": read(block.mlp.up.weight)[0],
            f"layers.{i}.down.weight": read(block.mlp.down.weight)[0],
        }
    assert found.keys() == dict(plain.named_parameters()).keys()
    return {name: value.detach().clone() for name, value in found.items()}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float) -> None:
    """Each tensor's distance, relative to its length."""
    off = {name: ((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs}
    assert max(off.values()) < rtol, off


def nanogpt_rate(step: int) -> float:
    """Of step 0 to 1,999: a warm-up of 100 steps to 1e-3, then half a cosine to 1e-4."""
    if step < 100:
        return 1e-3 * (step + 1) / 101
    return 1e-4 + 0.9e-3 * (1 + math.cos(math.pi * (step - 100) / 1900)) / 2


@pytest.fixture
def trainer(trainer_in: Callable[..., Trainer], tmp_path: Path) -> Callable[[str], Trainer]:
    """trainer(name): of the experiment at a small size on a file, stopped after ten steps of 2,000."""
    (tmp_path / "input.txt").write_text(TEXT)
    words = (
        "experiment=nanogpt_char_cpu",
        "data=text",
        f"data.files={tmp_path / 'input.txt'}",
        "data.tokenizer=char",
        *SIZE,
    )
    steps = ("trainer.steps=2000", f"trainer.stop_after_steps={STEPS}", "data.validation_tokens=null")
    batch = (f"trainer.batch_tokens={ROWS * LENGTH}", f"trainer.micro_batch_tokens={ROWS * LENGTH}")
    return lambda name: trainer_in(tmp_path / name, *words, *steps, *batch, f"data.folder={tmp_path}")


def test_loss_and_gradients_are_the_plain_models(compose: Callable[..., dict[str, Any]]) -> None:
    vocabulary = 66
    model: Any = build_model(compose("experiment=nanogpt_char_cpu", *SIZE), DataSpec(vocabulary, 65, LENGTH, False))
    initialise(model, 0)
    plain, random = Plain(vocabulary), torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # far from the start, where attention is nearly a mean
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=random)
    plain.load_state_dict(mapped(model, plain, lambda parameter: parameter))
    tokens, targets = torch.randint(0, 66, (2, ROWS, LENGTH), generator=random)
    ours, theirs = model(tokens, targets) / targets.numel(), plain(tokens, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    ours.backward()
    theirs.backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    assert_close(mapped(model, plain, lambda parameter: parameter.grad), gradients, 1e-4)


def test_ten_steps_of_training_are_the_plain_models(trainer: Callable[[str], Trainer]) -> None:
    """Batches are ours, all else is written out: AdamW with decay on matrices and tables, clipping at 1, the warm-up."""
    run, batches = trainer("run"), trainer("batches").loader
    model: Any = run.model
    plain = Plain(model.data.vocabulary)
    plain.load_state_dict(start := mapped(model, plain, lambda parameter: parameter))
    matrices, gains = ([p for p in plain.parameters() if (p.ndim > 1) == decayed] for decayed in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8)
    for step in range(STEPS):
        batch = batches.take(ROWS)
        optimizer.zero_grad()
        plain(batch.tokens, batch.targets).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = nanogpt_rate(step)
        optimizer.step()
    assert run.train()[0] == "stopped" and run.progress.step == STEPS
    ours, theirs = mapped(model, plain, lambda parameter: parameter), dict(plain.named_parameters())
    moved = {name: (theirs[name] - start[name]).detach() for name in start}
    assert_close({name: ours[name] - start[name] for name in start}, moved, 1e-3)


def test_batches_are_windows_at_random_places_and_validation_is_the_end(trainer: Callable[[str], Trainer]) -> None:
    run, characters = trainer("run"), sorted({*TEXT})
    end = int(0.9 * len(TEXT))
    ids = torch.tensor([characters.index(character) for character in TEXT])
    windows = ids[:end].unfold(0, LENGTH + 1, 1)
    batch = run.loader.take(200)
    places = [
        (windows == torch.cat((row, label[-1:]))).all(-1).nonzero().flatten().tolist()
        for row, label in zip(batch.tokens, batch.targets, strict=True)
    ]
    assert all(places) and len({place[0] for place in places}) > 190
    assert min(place[0] for place in places) < 0.1 * end and max(place[-1] for place in places) > 0.9 * end
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert run.model.data.document_mask is False
    validation = run.validation
    counted = validation.targets[validation.targets >= 0]
    assert torch.equal(counted, ids[end + 1 :]) and torch.equal(validation.tokens[0], ids[end : end + LENGTH])


def test_the_learning_rate_is_nanogpts(compose: Callable[..., dict[str, Any]]) -> None:
    """Exact in the warm-up; afterwards the cosine is half a step longer, at most 0.03 % of the largest rate."""
    config = compose("experiment=nanogpt_char_cpu")
    assert (config["optimizer"]["lr"], config["auxiliary"]["lr"], config["trainer"]["steps"]) == (1e-3, 1e-3, 2000)
    lr = build_schedules(config).lr
    rates = [(1e-3 * lr((step + 0.5) / 2000), nanogpt_rate(step)) for step in range(2000)]
    assert all(ours == pytest.approx(theirs, rel=1e-4) for ours, theirs in rates[:101])
    assert max(abs(ours - theirs) for ours, theirs in rates) < 0.0003 * 1e-3


def test_initial_weights_are_normal_at_its_sizes(compose: Callable[..., dict[str, Any]]) -> None:
    model: Any = build_model(compose("experiment=nanogpt_char_cpu"), DataSpec(66, 65, 64, False))
    initialise(model, 0)
    plain_stds = {"qkv": 0.02, "out": 0.02 / math.sqrt(8), "up": 0.02, "down": 0.02 / math.sqrt(8)}
    block = model.blocks[2]
    maps = {"qkv": block.attention.qkvo.weight[:3], "out": block.attention.qkvo.weight[3], "up": block.mlp.up.weight}
    for name, weight in (maps | {"down": block.mlp.down.weight}).items():
        assert weight.std().item() == pytest.approx(plain_stds[name], rel=0.02)
        assert weight.abs().max() > 3.5 * plain_stds[name]  # a uniform one ends at 1.73
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.position.weight.std().item() == pytest.approx(0.02, rel=0.02)
