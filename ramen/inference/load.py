"""A trained run, opened again: `ramen.load("outputs/NAME/DATE/0-...")` for notebooks and scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ramen import device as machine
from ramen.build.objects import build_model, build_section
from ramen.config.check import check
from ramen.data.batches import IGNORED
from ramen.data.tokenizer import Tokenizer, gpt2_tokenizer, load_tokenizer
from ramen.errors import ConfigError, DataError
from ramen.inference.sample import sample
from ramen.nn.gpt import DataSpec
from ramen.runs import checkpoint
from ramen.runs.folder import CONFIG, ENVIRONMENT, RunFolder
from ramen.training.evaluate import evaluate


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

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return f"Run({self.folder}, step {self.step:,}, {size:,} parameters, tokenizer {self.tokenizer.name})"

    @property
    def text(self) -> DataSpec:
        """Vocabulary, BOS and row length the model was made for."""
        return self.model.data  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without the BOS that opens a document."""
        return [int(value) for value in self.tokenizer.encode(text)]

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`."""
        return self.tokenizer.decode(ids)

    def generate(
        self, prompt: str = "", *, tokens: int = 200, temperature: float = 0.8, top_k: int | None = None, seed: int = 0
    ) -> str:
        """What the model writes behind the prompt: at most `tokens` tokens, or to the end of the document."""
        drawn = sample(
            self.model, self.tokenizer, prompt=prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed
        )
        return "".join(drawn)

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
        plan = build_section(self.config, "trainer", self.text.sequence_length)
        found = self.summary.get("micro_batch_tokens")  # what `auto` came to
        rows = max(1, found // self.text.sequence_length) if isinstance(found, int) else plan.micro_rows
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return evaluate(self.model, tokens, targets, rows, self.device)


def open_run(
    run_folder: str | Path,
    device: str | torch.device = "cpu",
    step: int | str | None = None,
    allow_targets: Sequence[str] = (),
) -> Run:
    """Open a run folder at its newest checkpoint, at that of `step`, or at the "best" of those that were evaluated.

    A folder is data: packages besides ramen and torch.optim are imported for it only where `allow_targets` names them here,
    whatever its config allows itself.

    DataError when it is no run folder, has no such checkpoint, or its checkpoint is of another model.
    """
    folder = Path(run_folder)
    files = RunFolder(folder)
    config = files.config()
    if not config:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such run folder")
        inside = next((str(path.parent) for path in sorted(folder.glob(f"[!.]*/{CONFIG}"))), None)
        hint = f"; it holds runs, give one of them, as {inside}" if inside else ""
        raise DataError(f"{folder}: is no run folder, got no or an empty {CONFIG} in it{hint}")
    recorded, config["allow_targets"] = config.get("allow_targets"), list(allow_targets)
    try:
        check(config)
    except ConfigError as error:
        ignored = f"\nallow_targets: {recorded} of the file itself is ignored; give it to load if you trust them"
        raise DataError(f"{folder / CONFIG}: cannot be opened:\n{error}{ignored if recorded else ''}") from error
    path = _checkpoint(folder, step)
    source = build_section(config, "data")
    model = build_model(
        config,
        DataSpec(source.vocabulary, source.vocabulary - 1, source.rows.sequence_length, source.rows.document_mask),
    )
    checkpoint.load_weights(path, model)
    summary, environment = files.summary(), files.environment()
    where = machine.select_device(str(device))
    precision = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(environment.get("precision", "float32")))
    if precision is None:
        raise DataError(f"{folder / ENVIRONMENT}: names no precision, got {environment['precision']!r}; it is damaged")
    tokenizer = _tokenizer(folder, source, environment)
    return Run(folder, config, summary, model.to(where).eval(), tokenizer, checkpoint.step_of(path), precision)


def _checkpoint(folder: Path, step: int | str | None) -> Path:
    found = {checkpoint.step_of(path): path for path in checkpoint.checkpoints(folder)}
    if not found:
        raise DataError(f"{folder}: has no checkpoint to open; trainer.checkpoint_at_end=true keeps a run's last one")
    if step == "best":
        return checkpoint.best(folder)
    if step is None:
        return found[max(found)]
    if str(step) not in map(str, found):
        raise DataError(f"{folder}: has no checkpoint of step {step}; there are {', '.join(map(str, found))}, and best")
    return found[int(step)]


def _tokenizer(folder: Path, source: Any, environment: dict[str, Any]) -> Tokenizer:
    """The run's own copy; GPT-2's is known without one; a run from before there was a copy asks its data."""
    own = RunFolder(folder).tokenizer
    if own.exists():
        return load_tokenizer(own)
    if getattr(source, "tokenizer", "gpt2") == "gpt2":
        return gpt2_tokenizer()
    dataset = source.dataset(progress=False)
    if dataset.hash != environment.get("data_hash", dataset.hash):
        raise DataError(
            f"{folder}: was trained on other data than {dataset.folder}, got hash {environment['data_hash']}; "
            f"that of the data is {dataset.hash}, and the tokenizer of the run is not known without its data"
        )
    return dataset.tokenizer
