"""Value embeddings: which layers, which tables, gates exactly where they are, and nothing anywhere else."""

import pytest
import torch

from ramen.errors import ConfigError

ON = ("value_embedding=tables", "model.layers=6", "value_embedding.first=[1,2]", "value_embedding.last=[0,1,2]")


def test_first_and_last_layers_read_their_tables(build_gpt):
    result = build_gpt(*ON).value_embedding
    assert result.table_of == {0: 1, 1: 2, 3: 0, 4: 1, 5: 2}
    assert sorted(result.gates) == ["0", "1", "3", "4", "5"]
    assert len(result.tables) == 3
    assert {value.role for value in result.tables} == {"value_embedding"}
    assert {value.role for value in result.gates.values()} == {"gate"}


def test_layers_without_attention_are_not_counted(build_gpt):
    result = build_gpt(*ON, "model.layers=8", "attention.pattern=NLLLLLNL").value_embedding
    assert result.table_of == {1: 1, 2: 2, 4: 0, 5: 1, 7: 2}


@pytest.mark.parametrize(
    ("first", "last", "tables"),
    [
        ([0, 0, 1], [], {0: 0, 1: 0, 2: 1}),
        ([], [1, 0], {4: 1, 5: 0}),
        ([0, 1, 0], [0, 1, 2], dict(enumerate([0, 1, 0, 0, 1, 2]))),
    ],
)
def test_tables_may_be_at_one_end_alone_or_everywhere(build_gpt, rows, first, last, tables):
    model = build_gpt(*ON[:2], f"value_embedding.first={first}", f"value_embedding.last={last}", noise=0.3)
    assert model.value_embedding.table_of == tables and model(rows((12,))).isfinite().all()


def test_zero_tables_are_no_tables(build_gpt, rows):
    tokens = rows((12,), (5, 7))
    without = build_gpt("model.layers=6", "attention.output_init_scale=1.0")
    zero = build_gpt(*ON, "attention.output_init_scale=1.0", "value_embedding.init_std=0.0")
    torch.testing.assert_close(zero(tokens), without(tokens), rtol=1e-5, atol=1e-6)


def test_adds_a_gated_row_head_by_head(build_gpt):
    result = build_gpt(*ON, noise=0.3).value_embedding
    tokens, x = torch.tensor([[3, 5, 3]]), torch.randn(1, 3, 16)
    rows = result.read(tokens)
    value = result(3, rows, x)
    gate = 2 * torch.sigmoid(x[..., :12] @ result.gates["3"].T)  # (1, 3, 2)
    for t in range(3):
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            expected = gate[0, t, head] * result.tables[0][tokens[0, t], part]
            torch.testing.assert_close(value[0, t, part], expected)
    assert result(2, rows, x) is None


def test_starts_with_a_factor_of_one(build_gpt):
    result = build_gpt(*ON).value_embedding
    tokens = torch.tensor([[3, 5]])
    torch.testing.assert_close(result(0, result.read(tokens), torch.randn(1, 2, 16)), result.tables[1][tokens])


def test_without_gates(build_gpt, rows):
    model = build_gpt(*ON, "value_embedding.gate_inputs=null", noise=0.3)
    assert not [name for name, _ in model.named_parameters() if "value_embedding.gates" in name]
    assert model(rows((12,))).isfinite().all()


def test_tables_are_counted_as_embeddings(build_gpt):
    with_tables, without = build_gpt(*ON, vocabulary=37), build_gpt("model.layers=6", vocabulary=37)
    assert with_tables.embedding_parameters() - without.embedding_parameters() == 3 * 37 * 16
    total = [sum(value.numel() for value in model.parameters()) for model in (with_tables, without)]
    assert total[0] - total[1] == 3 * 37 * 16 + 5 * 2 * 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("value_embedding.first=[]", "value_embedding.last=[]"), "without a gap"),
        (("value_embedding.first=[0]", "value_embedding.last=[2]"), r"without a gap, got \[0\] and \[2\]"),
        (("value_embedding.first=[0,0,0]", "value_embedding.last=[0,0,0,0]"), "name 7 layers, but 6 have attention"),
        (("value_embedding.gate_inputs=17",), r"gate_inputs must be in \[1, 16\] or null, got"),
        (("value_embedding.gate_inputs=0",), r"gate_inputs must be in \[1, 16\] or null, got"),
        (("value_embedding.init_std=-1.0",), "init_std must be >= 0"),
    ],
)
def test_refuses(build_gpt, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_gpt(*ON, *overrides)
