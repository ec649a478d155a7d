"""The key that was meant: what other tools call it, the same name in another section, or the closest name."""

import difflib
from collections.abc import Iterable

from ramen.errors import suggest

_ALIASES = {
    "trainer.steps": "max_iters max_steps num_steps num_iterations iterations train_steps total_steps",
    "trainer.tokens": "max_tokens total_tokens train_tokens",
    "trainer.seconds": "max_seconds max_minutes",
    "trainer.batch_tokens": "batch_size total_batch_size global_batch_size train_batch_size batch",
    "trainer.micro_batch_tokens": "micro_batch_size device_batch_size gradient_accumulation_steps grad_accum",
    "trainer.grad_clip": "max_grad_norm clip_grad grad_norm_clip gradient_clip_val clip",
    "trainer.evaluate_every_steps": "eval_interval eval_steps eval_every eval_freq val_every val_loss_every val_check_interval",
    "trainer.record_every_steps": "log_interval log_every logging_steps log_every_n_steps",
    "trainer.checkpoint_every_steps": "save_interval save_every save_steps checkpoint_interval checkpoint_every",
    "trainer.activation_checkpointing": "gradient_checkpointing",
    "trainer.cuda_graphs": "cudagraphs",
    "model.layers": "n_layer n_layers num_layers num_hidden_layers",
    "model.dim": "n_embd n_embed d_model model_dim hidden_size hidden_dim width",
    "model.heads": "n_head n_heads num_heads num_attention_heads",
    "model.softcap": "logit_cap logits_softcap final_logit_softcapping",
    "mlp.expansion": "mlp_ratio expansion_factor ffn_mult intermediate_size",
    "mlp.activation": "act act_fn hidden_act",
    "position.base": "rope_theta rope_base theta",
    "attention.long_window_tokens": "sliding_window window_size window",
    "attention.qk_norm": "qk_layernorm",
    "data.sequence_length": "block_size seq_len seq_length sequence_len context_length context max_seq_len ctx_len n_ctx",
    "data.bpe_vocabulary": "vocab_size",
    "data.validation_tokens": "eval_iters val_tokens eval_tokens",
    "data.files": "data_path train_files input_file text_file",
    "optimizer.lr": "learning_rate max_lr peak_lr matrix_lr muon_lr",
    "auxiliary.lr": "embedding_lr adam_lr scalar_lr",
    "optimizer.weight_decay": "wd decay",
    "schedule.warmup_fraction": "warmup warmup_iters warmup_steps warmup_ratio num_warmup_steps",
    "schedule.cooldown_fraction": "cooldown cooldown_iters cooldown_frac warmdown_iters warmdown_ratio lr_decay_iters",
    "schedule.final": "min_lr lr_min final_lr_frac",
    "precision": "dtype bf16 fp16 mixed_precision amp",
    "threads": "num_threads",
    "data": "dataset corpus",
    "schedule": "lr_scheduler lr_schedule scheduler lr_scheduler_type",
    "logger": "wandb wandb_log report_to log_to",
    "resume": "init_from resume_from resume_from_checkpoint",
    "seed": "random_seed rng_seed",
    "name": "run_name experiment_name exp_name out_dir output_dir",
    "hydra.run.dir": "run_dir log_dir",
}
ALIASES = {alias: key for key, aliases in _ALIASES.items() for alias in aliases.split()}


def suggest_key(name: object, siblings: Iterable[object], keys: Iterable[str] = ()) -> str:
    """'; did you mean X?' for a name that is none of its siblings, in a config that has these dotted keys."""
    word, known = str(name), [*map(str, siblings)]
    leaves: dict[str, list[str]] = {}
    for key in keys:
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    alias = ALIASES.get(word.lower().replace("-", "_"))
    meant = [alias] if alias else leaves.get(word)
    if not meant and not difflib.get_close_matches(word, known, n=1):
        meant = [key for leaf in difflib.get_close_matches(word, leaves, n=1, cutoff=0.75) for key in leaves[leaf]]
    return f"; did you mean {' or '.join(map(repr, meant[:3]))}?" if meant else suggest(word, known)
