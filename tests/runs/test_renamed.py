"""Components that run folders of ramen 0.1 name are found where they are today."""

from ramen.config.registry import components
from ramen.runs.renamed import current_names

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
    assert current_names(config) == config
