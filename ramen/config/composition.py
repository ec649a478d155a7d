"""Composed configs: their plain values, and what an experiment says of an option the command line replaces.

`experiment=baseline optimizer=bam` is the ablation ramen is for, and plain Hydra would give BAM the keys of NorMuon that the
experiment sets. Here an experiment's values hold as far as the option at hand has such a key, and an optimizer's hold for
the optimizer the experiment was written with alone, since rates are a method's own. A key that not even that option has
stays, for the check of the config to refuse. All values of the command line are merged later and win as ever.

Hydra has no public place for such a rule: a defaults list can choose files by other choices, which would spread every
experiment over a dozen files. So the files that its loader reads for a composition pass through here.
"""

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from ramen.config.kinds import COMPOSITIONS
from ramen.config.registry import OPTIMIZERS
from ramen.errors import ConfigError


class FittingRepository:
    """Hydra's files, where those of a composition say only what fits the options at hand."""

    def __init__(self, repository: IConfigRepository, defaults: Sequence[ResultDefault]):
        self.repository = repository
        self.primary = next((default.config_path for default in defaults if default.primary), None)
        self.at_hand = _options(defaults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.repository, name)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The file at this path below a folder of config. What Hydra keeps of it is not changed."""
        loaded = self.repository.load_config(config_path)
        group, _, name = config_path.partition("/")
        if loaded is None or group not in COMPOSITIONS:
            return loaded
        word = OverridesParser.create().parse_override(f"{group}={name}")
        alone = create_defaults_list(self.repository, self.primary, [word], prepend_hydra=True, skip_missing=True)
        loaded = copy.copy(loaded)
        loaded.config = self._fitting(loaded.config, _options(alone.defaults))
        return loaded

    def _fitting(self, values: Any, meant: dict[str, str]) -> DictConfig:
        """The values without those of an option that another one has replaced."""
        fitting = copy.deepcopy(values)
        for section, path in self.at_hand.items():
            written_for = meant.get(section, path)
            said = OmegaConf.select(fitting, section)
            if written_for == path or not OmegaConf.is_dict(said):
                continue
            gone = set(said) if section in OPTIMIZERS else self._keys(written_for) - self._keys(path)
            for key in gone:
                said.pop(key, None)
        return fitting

    def _keys(self, path: str) -> set[str]:
        loaded = self.repository.load_config(path)
        return set() if loaded is None else {str(key) for key in loaded.config}


def _options(defaults: Sequence[ResultDefault]) -> dict[str, str]:
    """Section -> the file of the option that a defaults list chooses for it."""
    return {default.package: default.config_path for default in defaults if default.package and default.config_path}


def _composed(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    fitting: Any = FittingRepository(repo, defaults)
    return _hydras(self, defaults, fitting)


# Whoever composes a config imports this module for `plain`, and so has the rule.
_hydras = ConfigLoaderImpl._compose_config_from_defaults_list
ConfigLoaderImpl._compose_config_from_defaults_list = _composed  # type: ignore[method-assign]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values, interpolations resolved. ConfigError names what is still missing."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(*(f"{key}: must be given, got nothing; write {key}=VALUE" for key in missing))
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
