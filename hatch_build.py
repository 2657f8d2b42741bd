"""Puts the configs into wheels; an editable install has them beside the package."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigsHook(BuildHookInterface):
    """Called by hatchling before it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add ``configs`` to the files of a wheel."""
        if version == "standard":
            build_data["force_include"]["configs"] = "rsseg/configs"
