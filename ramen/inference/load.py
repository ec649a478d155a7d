"""A trained run, opened again: `ramen.load("outputs/NAME/DATE/0-...")` for notebooks and scripts."""

import codecs
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ramen import device as machine
from ramen.build.objects import build_model, build_section
from ramen.config.check import check_node
from ramen.config.kinds import PARTS
from ramen.data.batches import IGNORED
from ramen.data.source import Source, TextSource
from ramen.data.tokenizer import Tokenizer, gpt2_tokenizer, load_tokenizer
from ramen.errors import ConfigError, DataError
from ramen.nn.gpt import DataSpec
from ramen.runs import checkpoint
from ramen.runs.folder import CONFIG, ENVIRONMENT, SUMMARY, RunFolder
from ramen.training.loss import evaluate

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, repr=False)
class Run:
    """A run's config and summary, its model with a checkpoint's weights (in evaluation mode), and its tokenizer.

    `model(ids (B, T))` are logits, `model(ids, targets)` is the summed loss in nats; `precision` is what it was trained in.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]  # empty for a run that has not ended
    model: nn.Module
    tokenizer: Tokenizer
    step: int
    precision: torch.dtype
    data_hash: str | None  # of what it was trained on

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return f"Run({self.folder}, step {self.step:,}, {size:,} parameters, tokenizer {self.tokenizer.name})"

    @property
    def text(self) -> DataSpec:
        """Vocabulary, BOS and row length the model was made for."""
        return self.model.data  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without the BOS that opens a document."""
        return self.tokenizer.encode(text).tolist()

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def generate(
        self, prompt: str = "", *, tokens: int = 200, temperature: float = 0.8, top_k: int | None = None, seed: int = 0
    ) -> str:
        """Text that continues the prompt: at most `tokens` tokens, or to the end of the document."""
        return "".join(self.pieces(prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed))

    def pieces(self, prompt: str, *, tokens: int, temperature: float, top_k: int | None, seed: int) -> Iterator[str]:
        """The text of `generate`, a token at a time.

        The same seed draws the same text on the same machine. The model sees the last `sequence_length` tokens. ConfigError
        for settings that nothing can be drawn with, at once and not at the first piece.
        """
        checks = {
            f"tokens: must be >= 1, got {tokens}": tokens >= 1,
            f"temperature: must be >= 0 (0 takes the likeliest token), got {temperature}": 0 <= temperature < math.inf,
            f"top_k: must be >= 1, got {top_k}; without it all tokens can be drawn": top_k is None or top_k >= 1,
        }
        if problems := [problem for problem, passes in checks.items() if not passes]:
            raise ConfigError(*problems)
        return self._pieces(prompt, tokens, temperature, top_k, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _pieces(
        self, prompt: str, tokens: int, temperature: float, top_k: int | None, generator: torch.Generator
    ) -> Iterator[str]:
        ids = [self.tokenizer.bos, *self.encode(prompt)]
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may span tokens
        for _ in range(tokens):
            row = torch.tensor([ids[-self.text.sequence_length :]], device=self.device)
            token = draw(self.model(row)[0, -1].float().cpu(), temperature, top_k, generator)
            if token == self.tokenizer.bos:
                break
            ids.append(token)
            yield decoder.decode(self.tokenizer.tokens[token])
        yield decoder.decode(b"", final=True)

    def loss(self, text: str) -> float:
        """Mean loss in nats a token of `text` as the beginning of a document, cut into rows as in training."""
        ids = np.array(self.encode(text), dtype=np.int64)
        if not len(ids):
            raise DataError("text: holds no token, got ''; at least one character is needed")
        width = self.text.sequence_length - 1
        rows = -(-len(ids) // width)
        tokens = np.full((rows, width + 1), self.text.bos, dtype=np.int64)
        targets = np.full_like(tokens, IGNORED)
        targets[:, :width].flat[: len(ids)] = ids
        tokens[:, 1:].flat[: len(ids)] = ids
        return self.evaluate(torch.from_numpy(tokens), torch.from_numpy(targets))

    def evaluate(self, tokens: torch.Tensor, targets: torch.Tensor) -> float:
        """Mean loss in nats a counted target of rows (R, T), computed as the trainer does."""
        trainer = self.config["trainer"]
        # The summary has what `auto` came to.
        sizes = (self.summary.get("micro_batch_tokens"), trainer["micro_batch_tokens"], trainer["batch_tokens"])
        size = next(size for size in sizes if isinstance(size, int))
        rows = max(1, size // self.text.sequence_length)
        return evaluate(self.model, tokens, targets, rows, self.precision, self.device)


def open_run(
    run_folder: str | Path,
    device: str | torch.device = "cpu",
    step: int | str | None = None,
    allow_targets: Sequence[str] = (),
) -> Run:
    """Open a run folder at its newest checkpoint, at that of `step`, or at the "best" of those that were evaluated.

    Of the packages that the run itself allowed only those of `allow_targets` are imported: a folder may come from anyone.
    DataError when it is no run folder, is not as the run wrote it, has no such checkpoint, or its checkpoint is of another
    model.
    """
    files = RunFolder(run_folder)
    config = files.config()
    if not config:
        raise DataError(_not_a_run(files.path))
    files.refuse_altered(CONFIG, SUMMARY, ENVIRONMENT)
    recorded, config["allow_targets"] = config.get("allow_targets"), list(allow_targets)
    # An older ramen may have had other optimizers: only what is built here is checked.
    sections = ("model", *PARTS, "data")
    problems = [check_node(config.get(kind) or {"_target_": None}, kind, kind, allow_targets) for kind in sections]
    if any(problems):
        ignored = f"allow_targets: {recorded} of the file itself is ignored; give it to load if you trust them"
        lines = [f"{files.path / CONFIG}: cannot be opened:", *chain(*problems), *([ignored] if recorded else [])]
        raise DataError("\n".join(lines))
    path = _checkpoint(files.path, step)
    source: Source = build_section(config, "data")
    data = DataSpec(source.vocabulary, source.vocabulary - 1, source.sequence_length, source.document_mask)
    model = build_model(config, data)
    checkpoint.load_weights(path, model)
    environment = files.environment()
    precision = environment.get("precision", "float32")
    if precision not in PRECISIONS:
        damage = f"got precision {precision!r}; allowed are {', '.join(PRECISIONS)}"
        raise DataError(f"{files.path / ENVIRONMENT}: is damaged, {damage}")
    if files.tokenizer.exists():
        tokenizer = load_tokenizer(files.tokenizer, environment.get("tokenizer_hash"))
    elif isinstance(source, TextSource) and source.tokenizer != "gpt2":
        raise DataError(f"{files.tokenizer}: is missing; the ids of the model mean nothing without it")
    else:
        tokenizer = gpt2_tokenizer()
    return Run(
        folder=files.path,
        config=config,
        summary=files.summary(),
        model=model.to(machine.select_device(str(device))).eval(),
        tokenizer=tokenizer,
        step=checkpoint.step_of(path),
        precision=PRECISIONS[precision],
        data_hash=environment.get("data_hash"),
    )


def _not_a_run(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such run folder"
    inside = next((str(path.parent) for path in sorted(folder.glob(f"[!.]*/{CONFIG}"))), None)
    hint = f"; it holds runs, give one of them, as {inside}" if inside else ""
    return f"{folder}: is no run folder, got no or an empty {CONFIG} in it{hint}"


def _checkpoint(folder: Path, step: int | str | None) -> Path:
    saved = {str(checkpoint.step_of(path)): path for path in checkpoint.checkpoints(folder)}
    if not saved:
        raise DataError(f"{folder}: has no checkpoint to open; trainer.checkpoint_at_end=true keeps a run's last one")
    if step in (None, "best"):
        return checkpoint.best(folder) if step else checkpoint.latest(folder)
    if str(step) not in saved:
        raise DataError(f"{folder}: has no checkpoint of step {step}; there are {', '.join(saved)}, and best")
    return saved[str(step)]


def draw(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One id from logits (V,): the likeliest at temperature 0, else drawn from the softmax over the top k."""
    if temperature == 0:
        return int(logits.argmax())
    likeliest = logits.topk(min(top_k or len(logits), len(logits)))  # exactly k, whatever ties there are
    chances = ((likeliest.values - likeliest.values[0]) / temperature).softmax(-1)
    return int(likeliest.indices[torch.multinomial(chances, 1, generator=generator)])
