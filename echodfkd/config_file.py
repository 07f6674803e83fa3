"""Configs as files: reading with overrides, checking, writing back, and the hash that names a run's numbers.

(A little over 300 lines: two tables, of what options may be and of what leaves the hash alone, stand with their use.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echodfkd.config import EvaluationConfig, RunConfig
from echodfkd.config_evaluate import check_evaluate
from echodfkd.config_head_checks import check_heads, drop_unused_heads
from echodfkd.config_initial import check_initial_option, pin_initial
from echodfkd.config_judge import check_judge, drop_unused_judge
from echodfkd.config_objective_checks import check_recipe, drop_added_defaults
from echodfkd.config_remote import check_serve
from echodfkd.config_sizing import check_sizing
from echodfkd.config_source_checks import check_source
from echodfkd.config_source_file import expand_source, pin_tables, replace_distributions, shorten_source, sources_in
from echodfkd.config_student_checks import check_student
from echodfkd.config_synthesize_checks import check_synthesize
from echodfkd.config_teacher_checks import check_teacher, teacher_facts
from echodfkd.config_train_checks import check_batches, check_placement
from echodfkd.config_value_checks import MAX_CLIP_BYTES, check_kinds, check_values, explain
from echodfkd.errors import ConfigError, EchoDFKDError, one_line
from echodfkd.redaction import redact_values
from echodfkd.untrusted import check_yaml


def load_config(path: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read one YAML file over the defaults, then ``key=value`` overrides.

    Raises:
        ConfigError: one sentence that names the option, what it got and what is allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        layers = []
        if path is not None:
            if not Path(path).is_file():
                raise ConfigError(f"--config: no file {path}; configs/ holds the ones that ship")
            data = Path(path).read_bytes()
            check_yaml(data, f"--config: {path}")
            loaded = OmegaConf.load(io.StringIO(data.decode("utf-8-sig")))
            if not OmegaConf.is_dict(loaded):
                raise ConfigError(f"--config: {path} must hold `key: value` lines, got a {type(loaded).__name__}")
            layers.append(loaded)
        for text in overrides:
            if "=" not in text:
                raise ConfigError(f"override {text!r}: expected key=value, e.g. train.steps=100")
            check_yaml(text.partition("=")[2].encode("utf-8", "surrogatepass"), f"override {text[:100]!r}")
        layers.append(OmegaConf.from_dotlist(list(overrides)))
        config = _build(layers)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    except Exception as error:
        if isinstance(error, EchoDFKDError):
            raise ConfigError(str(error)) from error
        raise ConfigError(f"the config could not be read: {one_line(error)}") from error
    check_config(config)
    return pin_initial(pin_tables(config))


def config_to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML without secrets: what ``--dry-run`` prints and the run folder keeps."""
    from omegaconf import OmegaConf

    values = dataclasses.asdict(config)
    for source in sources_in(values):
        shorten_source(source)
    return OmegaConf.to_yaml(OmegaConf.create(redact_values(values)))


def config_from_dict(values: dict[str, Any]) -> RunConfig:
    """Build a config from plain values (a stored config.yaml, already resolved). Raises `ConfigError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if "${" in json.dumps(values, default=str):  # it would read this process's environment
        raise ConfigError("a stored config holds ${...}, which only a config file may")
    try:
        config = _build([OmegaConf.create(values)])
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    check_config(config)
    return config


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A config with some ``key=value`` changed. Raises `ConfigError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        layers = [OmegaConf.create(dataclasses.asdict(config)), OmegaConf.from_dotlist(list(overrides))]
        changed = _build(layers)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    check_config(changed)
    return changed


def _build(layers: Sequence[Any]) -> RunConfig:
    """Layers of options over the defaults, later ones over earlier ones."""
    from omegaconf import OmegaConf

    given: Any = OmegaConf.create({})
    for layer in layers:
        values = OmegaConf.to_container(layer)
        for source in sources_in(values):
            expand_source(source)
        given = OmegaConf.merge(given, OmegaConf.create(values))
    values = OmegaConf.to_container(given)
    for source in sources_in(values):
        replace_distributions(source)
    merged = OmegaConf.structured(RunConfig)
    _make_writable(merged)
    config = OmegaConf.to_object(OmegaConf.merge(merged, OmegaConf.create(values)))
    assert isinstance(config, RunConfig)
    check_kinds(config, RunConfig)
    return config


_PLACEMENT = (
    "num_cpus",
    "num_gpus",
    "node_label",
    "threads",
    "min_actors",
    "max_actors",
    "actors",
    "device",
    "compile",
    "max_failures",
    "stop_grace_s",
    "timeout_s",
    "keep_resume",
    "workers",
    "placement",
    "memory_share",
    "engine",
    "zero_stage",
    "torch_adam",
    "source_num_cpus",
    "source_tasks",
    "prefetch_batches",
    "leg_tasks",
    "ahead_mb",
    "no_progress_timeout_s",
)
"""Options that say where and how a run is computed, and not what."""


def config_hash(config: RunConfig) -> str:
    """First 16 hex digits of the sha256 over what decides the numbers.

    Where a run is stored, how its actors are placed and how it talks do not change its result, and so
    do not change the hash: a run may move to another cluster and still be the same run.
    """
    values = redact_values(dataclasses.asdict(config))  # a password that is changed leaves a run what it is
    apart = ("storage", "name", "on_exists", "lease_s", "ray", "synthesize", "study", "limited", "evaluate", "sizing")
    for key in (*apart, "serve"):
        values.pop(key)
    teacher_facts(values["teacher"], has_tasks=bool(config.taught_tasks))  # known by the hash of its weights
    for student in values["students"].values():
        student.pop("initial")  # known by initial_sha256
    for source in sources_in(values):
        shorten_source(source)
        for part in (source, *source.get("parts", {}).values()):
            part.get("conditions", {}).pop("table", None)  # known by table_sha256
    for section in ("teacher", "train", "evaluation", "data"):
        for key in _PLACEMENT:
            values[section].pop(key, None)
    if not config.train.early_stop_window:  # off: it decides nothing
        for key in ("early_stop_window", "early_stop_patience", "early_stop_min_delta"):
            values["train"].pop(key)
    drop_unused_heads(values)
    drop_added_defaults(values)
    drop_unused_judge(values, EvaluationConfig)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


_CHOICES = {
    "on_exists": ("resume", "refuse"),
    "data.order": ("fixed", "arrival"),
    "optimizer.kind": ("adam", "adamw"),
    "optimizer.schedule": ("cosine", "linear", "constant"),
    "train.engine": ("deepspeed", "plain"),
    "train.zero_stage": (0, 1, 2, 3),
    "train.precision": ("fp32", "bf16"),
    "train.placement": ("replicate", "spread"),
}

_AT_LEAST: dict[str, float] = {
    "lease_s": 1,
    "window.frames": 2,
    "window.fps": 0,
    "window.size": 16,
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "train.steps": 1,
    "train.global_batch": 1,
    "train.accumulation": 1,
    "train.workers": 1,
    "train.checkpoint_every": 1,
    "train.keep_resume": 1,
    "train.early_stop_window": 0,
    "train.early_stop_patience": 1,
    "train.max_failures": 0,
    "train.stop_grace_s": 1,
    "train.num_cpus": 0,
    "train.num_gpus": 0,
    "train.threads": 0,
    "data.quarantine_limit": 0,
    "data.max_attempts": 1,
    "data.source_tasks": 1,
    "data.prefetch_batches": 1,
    "data.leg_tasks": 1,
    "data.ahead_mb": 1,
    "data.no_progress_timeout_s": 0,
    "evaluation.cases": 1,
    "evaluation.frames": 4,
    "evaluation.actors": 1,
    "evaluation.num_cpus": 0,
    "evaluation.num_gpus": 0,
    "evaluation.threads": 1,
    "evaluation.overlays": 0,
    "ray.num_cpus": 1,
    "ray.object_store_mb": 80,
    "ray.progress_s": 0,
    "ray.wait_for_nodes_s": 0,
}


def check_config(config: RunConfig) -> None:
    """Refuse values and combinations that cannot work. Raises `ConfigError`."""
    check_values(dataclasses.asdict(config))
    for option, allowed in _CHOICES.items():
        value = _get(config, option)
        if value not in allowed:
            raise ConfigError(f"{option}: got {value!r}, allowed are {', '.join(map(str, allowed))}")
    for option, least in _AT_LEAST.items():
        value = _get(config, option)
        if not value >= least:
            raise ConfigError(f"{option}: got {value}, must be at least {least:g}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", config.name):
        raise ConfigError(f"name: got {config.name!r}, allowed are up to 100 letters, digits, '.', '_' and '-'")
    if config.clip_bytes > MAX_CLIP_BYTES:
        raise ConfigError(f"window: a clip would have {config.clip_bytes} bytes, at most {MAX_CLIP_BYTES} are allowed")
    for option in ("optimizer.learning_rate", "optimizer.eps", "data.source_num_cpus"):
        if not _get(config, option) > 0:
            raise ConfigError(f"{option}: got {_get(config, option)}, must be above 0")
    for option in ("optimizer.final_fraction", "evaluation.threshold", "data.quarantine_limit", "train.memory_share"):
        if not 0 <= _get(config, option) <= 1:
            raise ConfigError(f"{option}: got {_get(config, option)}, must lie in 0 .. 1")
    for option in ("optimizer.beta1", "optimizer.beta2", "train.early_stop_min_delta"):
        if not 0 <= _get(config, option) < 1:
            raise ConfigError(f"{option}: got {_get(config, option)}, must lie in 0 <= value < 1")
    for option in ("train.node_label", "evaluation.node_label"):
        value = _get(config, option)
        if value and not re.fullmatch(r"[^=\s]+=[^=\s]+", value):
            raise ConfigError(f"{option}: got {value!r}, expected key=value, e.g. pool=teacher")
    _check_sources(config)
    check_batches(config)
    _check_students(config)
    check_placement(config)
    check_heads(config)
    check_recipe(config)
    check_judge(config.evaluation)
    check_evaluate(config.evaluate, config.window.fps)
    check_synthesize(config.synthesize, config.source)
    check_sizing(config.sizing)
    check_serve(config)


def _check_sources(config: RunConfig) -> None:
    for option, source in (("source", config.source), ("evaluation.source", config.evaluation.source)):
        check_source(option, source)
    check_teacher(config)


def _check_students(config: RunConfig) -> None:
    if not (config.students or config.synthesize.out or config.evaluate.out or config.serve.port):
        raise ConfigError("students: empty, name at least one, e.g. students.c31.blocks=3 students.c31.layers=1")
    for name, student in config.students.items():
        option = f"students.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
            raise ConfigError(f"{option}: a student's name may hold up to 100 letters, digits, '_' and '-'")
        check_student(option, student)
        check_initial_option(option, student)
        multiple = 2 ** (student.blocks - 1)
        if config.window.size % multiple:
            raise ConfigError(
                f"window.size: got {config.window.size}, must be a multiple of {multiple}"
                f" because {option}.blocks is {student.blocks}"
            )
    if not 2 <= config.study.seeds <= 10:  # an interval over runs needs two; its table ends at ten
        raise ConfigError(f"study.seeds: got {config.study.seeds}, must lie in 2 .. 10")
    for name, options in config.study.variants.items():
        fixed = [
            text for text in options if re.match(r"(name|seed|storage|students|study|ray)\b", text) or "=" not in text
        ]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,39}", name) or fixed:
            raise ConfigError(
                f"study.variants.{name}: got {', '.join(options)}; expected a name of up to 40 letters, digits and '_',"
                " and options key=value other than name, seed, storage, students, study and ray"
            )
    if config.study.baseline not in ("", *config.compared):
        raise ConfigError(f"study.baseline: got {config.study.baseline!r}, allowed are {', '.join(config.compared)}")


def _get(config: RunConfig, option: str) -> Any:
    value: Any = config
    for key in option.split("."):
        value = getattr(value, key)
    return value


def _make_writable(node: Any) -> None:
    """Frozen dataclasses make OmegaConf nodes read-only, which a merge must not be."""
    from omegaconf import Container, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in range(len(node)) if OmegaConf.is_list(node) else node:
        child = node._get_node(key)
        if isinstance(child, Container):
            _make_writable(child)
