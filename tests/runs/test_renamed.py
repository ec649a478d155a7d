"""Run folders of ramen 0.1 are opened and compared: what they name is found where it is today."""

import shutil
from pathlib import Path

import pytest

import ramen
from ramen.config.registry import components
from ramen.errors import ConfigError, DataError
from ramen.report import compare
from ramen.runs.checkpoint import refuse_used, unfinished
from ramen.runs.folder import RunFolder
from ramen.runs.read import read_run
from ramen.runs.renamed import current_names

RUN = Path(__file__).parent / "run_of_0_1"

OF_0_1 = """
ramen.attention.multi_head.MultiHead ramen.data.hub.Hub ramen.data.pretokenized.Pretokenized
ramen.data.shakespeare.Shakespeare ramen.data.text.Text ramen.embedding.split.Split ramen.embedding.tied.Tied
ramen.embedding.untied.Untied ramen.linear.dense.Dense ramen.linear.low_rank.LowRank ramen.logger.none.NoLogger
ramen.logger.wandb.WandB ramen.mlp.default.MLP ramen.mlp.ff.FF ramen.mlp.nff.NFF
ramen.mlp.residual_normed.ResidualNormed ramen.model.gpt.GPT ramen.optimizer.adamw.AdamW
ramen.optimizer.aro_sinkhorn.AROSinkhorn ramen.optimizer.bam.BAM ramen.optimizer.contra_muon.ContraMuon
ramen.optimizer.lite.LITE ramen.optimizer.muon.Muon ramen.optimizer.normuon.NorMuon ramen.optimizer.soap_muon.SOAPMuon
ramen.optimizer.spectron.Spectron ramen.position.half_rope.HalfRoPE ramen.position.none.NoPE ramen.position.rope.RoPE
ramen.position.yarn.YaRN ramen.residual.hc.HC ramen.residual.kromhc.KromHC ramen.residual.mhc.MHC
ramen.residual.standard.Standard ramen.routing.Routing ramen.schedule.constant.constant ramen.schedule.cosine.cosine
ramen.schedule.linear.linear ramen.schedule.piecewise.piecewise ramen.schedule.stepped.stepped ramen.schedule.wsd.wsd
ramen.stream.modded.Modded ramen.stream.plain.Plain ramen.trainer.diagnostics.Diagnostics
ramen.trainer.diagnostics.off ramen.trainer.plan.Plan ramen.value_embedding.none.NoValueEmbedding
ramen.value_embedding.tables.Tables
"""


def test_every_target_of_0_1_is_a_component_of_today() -> None:
    config = {"a": {str(index): {"_target_": target} for index, target in enumerate(OF_0_1.split())}}
    today = {node["_target_"] for node in current_names(config)["a"].values()}
    assert today <= components()
    assert len(today) == len(OF_0_1.split())


def test_a_name_of_today_stays() -> None:
    config = {"mlp": {"_target_": "ramen.nn.mlp.nff.NFF", "expansion": 8}, "seed": 0, "optimizer": {"_target_": 3}}
    assert current_names(config) == config | {"norm": {"_target_": "ramen.nn.norm.rms.RMS"}}
    assert current_names({}) == {}


def test_a_run_of_0_1_is_opened_and_computes_what_it_did() -> None:
    run = ramen.load(RUN)
    assert run.step == 6
    assert run.loss("To be or not to be, that is the question") == pytest.approx(4.944418334960938, rel=1e-6)
    assert len(run.generate("KING", tokens=5)) > 0


def test_a_run_of_0_1_is_compared(tmp_path: Path) -> None:
    run = read_run(RUN)
    assert (run.status, run.doubts, run.warnings) == ("finished", {}, [])
    assert (run.value("optimizer"), run.value("mlp._target_")) == ("bam", "ramen.nn.mlp.nff.NFF")
    shutil.copytree(RUN, tmp_path / "run")
    assert compare(tmp_path).ranking["mean"].tolist() == [pytest.approx(4.9888041136263155)]


def test_a_run_of_0_1_that_was_changed_is_refused(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("expansion: 4", "expansion: 8"))
    assert "config.yaml" in read_run(tmp_path / "run").doubts["changed files"]
    with pytest.raises(DataError, match=r"config\.yaml: was changed after it was written"):
        ramen.load(tmp_path / "run")


def test_a_run_of_0_1_is_not_continued(tmp_path: Path) -> None:
    folder = tmp_path / "name" / "date" / "run"
    shutil.copytree(RUN, folder)
    (folder / "summary.json").unlink()
    assert unfinished(tmp_path / "name", RunFolder(folder).config()) is None
    with pytest.raises(ConfigError, match="holds a run already"):
        refuse_used(folder)


def test_a_run_of_a_newer_ramen_is_refused_with_its_format(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text('{"format": 9, "parts": 3}')
    with pytest.raises(DataError, match=r"is of a newer ramen, got format 9; this one reads up to 2"):
        ramen.load(tmp_path / "run")
