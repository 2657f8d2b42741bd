"""The space of a search: overrides, some of which have several values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rsseg.config.cli import compose, own_part
from rsseg.config.entry import CONFIGS
from rsseg.config.folder import PLACE_KEYS
from rsseg.config.naming import folder_name
from rsseg.contract import InputError, first_line


@dataclass
class Search:
    """The settings of a search; ``rsseg search --help`` explains them.

    Overrides with several values are searched: ``x=interval(0,1)`` draws numbers uniformly, ``x=tag(log,interval(0.01,10))``
    uniformly in their logarithm, ``x=a,b,c`` choices. The other overrides are those of train.py.
    """

    overrides: list[str]
    objectives: list[str] = field(default_factory=lambda: ["iou"])  # the scores in `summary.json` to maximise
    trials: int = 20  # the number of trials to reach, counting those that finished or diverged
    race: int = 0  # the number of best trials that are raced afterwards on seeds that the search has not used; 0: no race
    study: str = "search"  # the name of the study, and of its folder in ``<output>/search``
    storage: str | None = None  # the URL of a database; None: a file ``study.db`` in the study's folder

    def parsed(self) -> list[Override]:
        """The overrides as Hydra reads them."""
        try:
            return list(OverridesParser.create().parse_overrides(self.overrides))
        except HydraException as error:
            raise InputError(f"an override can't be read: {first_line(error)}") from None

    def space(self) -> dict[str, Any]:
        """Optuna's distribution of values by key.

        Raises:
            InputError: If Optuna is missing, no override has several values, or an interval is invalid.
        """
        try:
            from optuna.distributions import CategoricalDistribution, FloatDistribution
        except ModuleNotFoundError:
            raise InputError("a search needs Optuna: pip install 'rsseg[search]'") from None
        found: dict[str, Any] = {}
        for o in self.parsed():
            key = o.get_key_element()
            if o.is_interval_sweep():
                bounds: Any = o.value()
                low, high, log = float(bounds.start), float(bounds.end), "log" in bounds.tags
                if low >= high or (log and low <= 0):
                    raise InputError(f"{o.input_line}: the first number must be the smaller, and above 0 with log")
                found[key] = FloatDistribution(low, high, log=log)
            elif o.is_sweep_override():
                found[key] = CategoricalDistribution(list(o.sweep_string_iterator()))
        if not found:
            raise InputError("nothing is searched: give a value as 'key=interval(0,1)' or key=a,b,c, quoted for the shell")
        return found

    def fixed(self) -> list[str]:
        """The overrides that all trials share."""
        return [str(o.input_line) for o in self.parsed() if not o.is_sweep_override()]

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """A trial's overrides."""
        return [*self.fixed(), *(f"{key}={value}" for key, value in params.items())]

    def config(self, params: Mapping[str, Any]) -> tuple[Any, str]:
        """A trial's config and the name of its loss.

        Raises:
            InputError: If the config can't be composed.
        """
        config = compose(CONFIGS, self.words(params))
        return own_part(config), str(config.hydra.runtime.choices.loss)

    def first(self) -> dict[str, Any]:
        """One point of the space."""
        return {key: one.choices[0] if hasattr(one, "choices") else one.low for key, one in self.space().items()}

    @cached_property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.config(self.first())[0].output) / "search" / self.study

    def run_folder(self, params: Mapping[str, Any]) -> Path:
        """A trial's folder, named by its values, so that the same values are the same run."""
        return self.folder / folder_name(",".join(sorted(f"{key}={value}" for key, value in params.items())))

    def identity(self) -> dict[str, Any]:
        """The facts that have to be equal for another call to continue this search."""
        kept = [str(o.input_line) for o in self.parsed() if o.key_or_group.split(".")[0] not in PLACE_KEYS]
        return {"overrides": sorted(kept), "objectives": self.objectives}
