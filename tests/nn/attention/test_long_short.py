"""Long and short layers, layers without attention, key offset and gate: what each does, on its layers and on no others."""

import pytest
import torch

from ramen.errors import ConfigError
from ramen.kernels import attention as kernels
from ramen.kernels.attention import DenseAttention, choose
from ramen.kernels.cuda.attention import FlexAttention, VarlenAttention, block_mask, boundaries
from ramen.ops.attention import attention, offset_keys
from ramen.ops.document_mask import DocumentMask

LONG_SHORT = (
    "model.layers=4",
    "attention.pattern=SSL",
    "attention.long_window_tokens=8",
    "attention.short_window_tokens=2",
)


def reach(model, tokens, at):
    """How many tokens after `at` a change of it moves the logits."""
    changed = tokens.clone()
    changed[0, at] = tokens[0, at] % 36 + 1
    moved = (model(changed) != model(tokens)).any(-1)[0].nonzero().flatten()
    assert moved.min() == at
    return moved.max().item() - at


def test_the_pattern_is_repeated_over_the_layers(build_gpt, rows):
    model = build_gpt(*LONG_SHORT, noise=0.3)
    assert [block.attention.kind for block in model.blocks] == ["S", "S", "L", "S"]
    assert [block.attention.window for block in model.blocks] == [2, 2, 8, 2]
    assert reach(model, rows((24,)), 4) == 1 + 1 + 7 + 1


def test_short_and_long_windows_may_be_one(build_gpt, rows):
    options = "attention.pattern=LS", "attention.long_window_tokens=4", "attention.short_window_tokens=4"
    same, long = build_gpt(*options, noise=0.3), build_gpt("attention.long_window_tokens=4", noise=0.3)
    assert torch.equal(same(rows((12,))), long(rows((12,))))


def test_windows_move_together(build_gpt, rows):
    model = build_gpt(*LONG_SHORT, noise=0.3)
    model.move_windows((11, 3))
    assert reach(model, rows((30,)), 4) == 2 + 2 + 10 + 2
    restored = build_gpt(*LONG_SHORT)
    restored.load_state_dict(model.state_dict())
    assert restored.windows == (11, 3)
    assert [block.attention.window for block in restored.blocks] == [3, 3, 11, 3]


@pytest.mark.parametrize("windows", [(11, 3), (None, 3), (None, None)])
def test_weights_come_with_their_windows(build_gpt, windows):
    pattern = "attention.pattern=LS" if windows[1] else "attention.pattern=L"
    options = pattern, f"attention.short_window_tokens={2 if windows[1] else 'null'}"
    model, restored = build_gpt(*options), build_gpt(*options)
    model.move_windows(windows)
    restored.load_state_dict(model.state_dict())
    assert restored.windows == model.windows == windows
    assert [block.attention.window for block in restored.blocks] == [
        windows[0],
        windows[1] if windows[1] else windows[0],
    ]


def test_a_layer_without_attention_has_none(build_gpt, rows):
    model = build_gpt("model.layers=3", "attention.pattern=LNL", noise=0.3)
    assert [block.attention is None for block in model.blocks] == [False, True, False]
    assert not [name for name, _ in model.named_parameters() if name.startswith("blocks.1.attention")]
    assert model(rows((12,))).isfinite().all()


@pytest.mark.parametrize("residual", ["standard", "hc", "mhc", "kromhc"])
def test_any_layer_may_be_without_attention_under_any_residual(build_gpt, rows, residual):
    for pattern in ("NLL", "LLN", "LNL"):
        model = build_gpt("model.layers=3", f"attention.pattern={pattern}", f"residual={residual}", noise=0.3)
        tokens = rows((12,))
        model(tokens, tokens).backward()
        assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_key_offset_takes_the_predecessors_still_dimensions():
    k = torch.randn(2, 6, 3, 8)
    mask = DocumentMask(torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 2]]))
    moved = offset_keys(k, 4, mask)
    assert torch.equal(moved[..., :4], k[..., :4])
    for row, firsts in enumerate(((0, 3), (0, 1, 5))):
        for t in range(6):
            source = t if t in firsts else t - 1
            assert torch.equal(moved[row, t, :, 4:], k[row, source, :, 4:])


@pytest.mark.parametrize("start", [0, 2, 6])
def test_attention_with_key_offset_is_attention_to_those_keys(start):
    mask = DocumentMask(torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 2]]))
    qkv, settings = torch.randn(2, 6, 3, 2, 8), dict(window=None, scale=0.4, qk_norm=False)
    q, k, v = qkv.unbind(2)
    moved = torch.stack((q, offset_keys(k, start, mask), v), dim=2)
    expected = attention(moved, torch.nn.Identity(), mask, **settings)
    torch.testing.assert_close(attention(qkv, torch.nn.Identity(), mask, **settings, key_offset=start), expected)


@pytest.mark.parametrize("backend", ["kernel", "sdpa"])
@pytest.mark.parametrize("paired", [False, True])
def test_a_positions_gain_multiplies_the_logits(build_gpt, backend, paired):
    position, mask, qkv = (
        build_gpt("position=yarn").position,
        DocumentMask(torch.zeros(2, 9)),
        torch.randn(2, 9, 3, 2, 8),
    )
    settings = dict(window=5, qk_norm=True, paired=paired, backend=backend)
    expected = attention(qkv, position, mask, scale=3 * 0.4, **settings)
    position.gain *= 3
    torch.testing.assert_close(attention(qkv, position, mask, scale=0.4, **settings), expected)


def test_key_offset_is_on_long_layers_alone(build_gpt):
    model = build_gpt(*LONG_SHORT, "attention.key_offset=true")
    assert [block.attention.key_offset for block in model.blocks] == [None, None, 4, None]  # half of a head width of 8
    nope = build_gpt("position=none", "attention.key_offset=true")
    assert nope.blocks[0].attention.key_offset == 0


def test_key_offset_changes_the_result_and_leaks_nothing(build_gpt, rows):
    plain, model = (build_gpt(f"attention.key_offset={on}", noise=0.3) for on in ("false", "true"))
    tokens = rows((6, 6))
    before = model(tokens)
    assert not torch.equal(before, plain(tokens))
    for t in (3, 8):
        changed = tokens.clone()
        changed[0, t] = tokens[0, t] % 36 + 1
        moved = (model(changed) != before).any(-1)[0].nonzero().flatten().tolist()
        assert moved == list(range(t, 6 if t < 6 else 12))


def test_the_gate_halves_attention_at_the_start(build_gpt):
    """Zero weights: a sigmoid of 0."""
    plain = build_gpt("attention.output_init_scale=1.0").blocks[0].attention
    gated = build_gpt("attention.output_init_scale=1.0", "attention.gate_inputs=12").blocks[0].attention
    x, mask = torch.randn(1, 5, 16), DocumentMask(torch.zeros(1, 5, dtype=torch.long))
    torch.testing.assert_close(gated(x, torch.nn.Identity(), mask), plain(x, torch.nn.Identity(), mask) / 2)
    assert gated.gate.shape == (2, 12) and gated.gate.role == "gate"


@pytest.mark.parametrize("inputs", [5, 16])
def test_the_gate_of_a_head_reads_the_first_dimensions(build_gpt, inputs):
    plain, gated = (
        build_gpt(f"attention.gate_inputs={arguments}").blocks[0].attention for arguments in ("null", inputs)
    )
    with torch.no_grad():
        gated.gate.normal_()
        for module in (plain, gated):
            module.qkvo.weight[3] = torch.eye(16)
    x, mask = torch.randn(2, 5, 16), DocumentMask(torch.zeros(2, 5, dtype=torch.long))
    opened = torch.sigmoid(x[..., :inputs] @ gated.gate.T).repeat_interleave(8, dim=-1)  # two heads of 8
    torch.testing.assert_close(gated(x, torch.nn.Identity(), mask), plain(x, torch.nn.Identity(), mask) * opened)


def test_a_closed_gate_shuts_its_head(build_gpt):
    module = build_gpt("attention.output_init_scale=1.0", "attention.gate_inputs=1").blocks[0].attention
    with torch.no_grad():
        module.gate[1] = -1000.0
        module.qkvo.weight[3, :, :8] = 0  # head 0 is not heard
    x = torch.rand(1, 5, 16) + 1
    assert not module(x, torch.nn.Identity(), DocumentMask(torch.zeros(1, 5, dtype=torch.long))).any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("attention.pattern=LXS",), "letters L"),
        (("attention.pattern=''",), "letters L"),
        (("attention.pattern=LLL",), "3 letters for 2 layers"),
        (("attention.pattern=LS",), "short_window_tokens belongs to the S layers of a pattern, got None and LS"),
        (("attention.short_window_tokens=4",), "short_window_tokens belongs to the S layers of a pattern, got 4 and L"),
        (("attention.pattern=S", "attention.short_window_tokens=0"), "short_window_tokens must be >= 1"),
        (("attention.pattern=N", "attention.long_window_tokens=4"), "long_window_tokens belongs to the L layers"),
        (("attention.pattern=LS", "attention.long_window_tokens=4", "attention.short_window_tokens=5"), "5 > 4"),
        (("attention.pattern=N", "attention.key_offset=true"), "key_offset is for long layers"),
        (("position=rope", "attention.key_offset=true"), "key_offset needs a position that leaves dimensions unturned"),
        (("attention.init_scale=0",), "^attention.init_scale must be > 0, got 0"),
        (("attention.output_init_scale=-0.5",), "^attention.output_init_scale must be >= 0, got -0.5"),
        (("attention.gate_inputs=17",), r"gate_inputs must be in \[1, 16\] or null, got"),
    ],
)
def test_refuses_what_would_have_no_effect_or_no_meaning(build_gpt, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_gpt(*overrides)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("device", "dtype", "width", "compiling", "expected"),
    [
        (CPU, FP32, 64, False, "kernel"),
        (CPU, BF16, 64, False, "kernel"),
        (CPU, FP64, 64, False, "sdpa"),
        (CPU, FP32, 64, True, "kernel"),
        (CUDA, BF16, 64, False, "varlen"),
        (CUDA, BF16, 256, False, "varlen"),
        (CUDA, BF16, 12, False, "sdpa"),  # flash attention takes multiples of 8
        (CUDA, BF16, 264, False, "sdpa"),
        (CUDA, BF16, 64, True, "flex"),
        (CUDA, FP32, 20, True, "flex"),
        (CUDA, BF16, 8, True, "sdpa"),  # FlexAttention's products are of 16 dimensions or more
        (CUDA, FP32, 64, False, "sdpa"),
        (torch.device("mps"), FP32, 64, False, "sdpa"),
    ],
)
def test_auto_chooses_by_what_the_machine_can(device, dtype, width, compiling, expected):
    assert choose("auto", device, dtype, width, compiling) == expected


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "width", "compiling"),
    [
        ("flex", CPU, FP32, 64, False),
        ("flex", CUDA, BF16, 8, True),
        ("varlen", CPU, BF16, 64, False),
        ("varlen", CUDA, FP32, 64, False),
        ("varlen", CUDA, BF16, 64, True),
        ("varlen", CUDA, BF16, 12, False),
        ("kernel", CUDA, FP32, 64, False),
        ("kernel", CPU, FP64, 64, False),
    ],
)
def test_a_backend_that_cannot_serve_is_an_error(asked, device, dtype, width, compiling):
    with pytest.raises(ValueError, match=f"backend: {asked} needs .*; allowed here are auto, .*sdpa"):
        choose(asked, device, dtype, width, compiling)
    if asked == "flex" and device == CUDA:
        assert choose(asked, device, dtype, 16, compiling) == asked


@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("offset", [None, 4])
def test_backends_agree_forward_and_backward(build_gpt, window, offset):
    """The kernel and torch's own attention, with value embeddings and key offset."""
    documents = torch.tensor([[0] * 9 + [1] * 4 + [2] * 11, [0] * 1 + [1] * 23])
    position, results = build_gpt().position, {}
    for backend in ("kernel", "sdpa"):
        torch.manual_seed(0)
        qkv, value = torch.randn(2, 24, 3, 2, 8, requires_grad=True), torch.randn(2, 24, 2, 8, requires_grad=True)
        y = attention(
            qkv, position, DocumentMask(documents), window=window, scale=0.4, qk_norm=True, key_offset=offset, value=value,
            backend=backend,
        )  # fmt: skip
        results[backend] = (y, *torch.autograd.grad(y.square().sum(), (qkv, value)))
    for kernel, sdpa in zip(*results.values(), strict=True):
        torch.testing.assert_close(kernel, sdpa, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [None, 1, 7, 200])
def test_flex_agrees_where_it_can_run(window):
    """Its whole condition is in the mask function: uncompiled on the CPU, block lists are ignored."""
    torch.manual_seed(0)
    documents = torch.cat([torch.full((60,), 0), torch.full((3,), 1), torch.full((90,), 2)]).expand(2, -1)
    q, k, v = torch.randn(3, 2, 153, 2, 16)
    with torch.no_grad():
        result = [
            backend.attend(q, k, v, DocumentMask(documents), window, 0.4) for backend in (DenseAttention, FlexAttention)
        ]
    torch.testing.assert_close(*result, rtol=1e-4, atol=1e-4)


def test_flex_leaves_out_blocks_that_nobody_sees():
    documents = torch.zeros(1, 1024, dtype=torch.long)
    blocks = block_mask(DocumentMask(documents), 128)
    assert blocks.kv_num_blocks.max().item() <= 2
    assert block_mask(DocumentMask(documents), None).sparsity() < blocks.sparsity()


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("backend", ["sdpa", "flex", "varlen"])
def test_masks_are_made_before_the_layers(build_gpt, rows, monkeypatch, backend, narrow):
    """A layer may be compiled by itself, and run again for its gradient: it finds all that it asks its mask for."""
    computed, reported = [], []
    once = DocumentMask.once

    def noting(mask, key, compute):
        return once(mask, key, lambda: computed.append(key) or compute())

    monkeypatch.setattr(DocumentMask, "once", noting)
    monkeypatch.setattr(kernels, "choose", lambda *arguments: reported.append(arguments[-1]) or backend)
    monkeypatch.setattr(VarlenAttention, "attend", lambda q, k, v, mask, *more: v + boundaries(mask)[0])
    options = "attention.pattern=LSN", "attention.short_window_tokens=4", "attention.paired_layers=[0,4]"
    model, at = build_gpt("model.layers=5", *options), []
    for block in (model.blocks[0], model.blocks[-1]):
        block.register_forward_hook(lambda block, arguments, result: at.append(computed.copy()))
    model.blocks[0].register_forward_pre_hook(lambda block, arguments: at.extend((reported.copy(), computed.copy())))
    for block in model.blocks[::3]:
        block.attention.compiled = True
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        model(rows((12, 20)))
    assert at[0] == [True, False, True, False]  # for layers 0, 1, 3 and 4
    assert at[1] == at[2] == at[3] and at[1]


def test_the_backend_asked_for_is_the_one_that_runs(build_gpt, rows, monkeypatch):
    ran = []
    attend = DenseAttention.attend
    monkeypatch.setattr(DenseAttention, "attend", lambda *arguments: ran.append("sdpa") or attend(*arguments))
    build_gpt("attention.backend=sdpa")(rows((12,)))
    assert ran == ["sdpa"] * 2


def test_boundaries_are_those_of_the_documents_end_to_end():
    mask = DocumentMask(torch.tensor([[0, 0, 1, 1], [1, 2, 2, 2]]))
    assert boundaries(mask).tolist() == [0, 2, 4, 5, 8] and boundaries(mask).dtype == torch.int32
