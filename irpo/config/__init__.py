"""A run's configuration: its schema, the layers that it is merged from, and what can be checked before a model."""

from irpo.config.schema import RUN_CONFIG, EvaluationConfig, RunConfig, load_config, to_yaml

__all__ = ["RUN_CONFIG", "EvaluationConfig", "RunConfig", "load_config", "to_yaml"]
