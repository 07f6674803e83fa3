"""Checks of an actor pool."""

from __future__ import annotations

from echodfkd.config.sections.pool import PoolConfig
from echodfkd.core.errors import ConfigError


def check_pool(option: str, pool: PoolConfig) -> None:
    """Refuse bounds that contradict each other. Raises `ConfigError`."""
    if pool.max_actors < pool.min_actors:
        raise ConfigError(
            f"{option}.max_actors: got {pool.max_actors}, must be at least {option}.min_actors ({pool.min_actors})"
        )
