"""docs/reference/options.md is the page that the declarations give, and every option in it is explained."""

import dataclasses
from pathlib import Path

from echodfkd.config.explained import explanations
from echodfkd.config.options_page import options_page
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import walk
from echodfkd.config.sections.source import PartConfig, SourceConfig
from echodfkd.config.sections.training import TrainConfig

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "options.md"


def test_the_page_is_the_one_that_the_declarations_give() -> None:
    assert PAGE.read_text() == options_page(), "run: python -m echodfkd.config.options_page > docs/reference/options.md"


def test_the_page_has_a_row_for_every_option_with_its_default_bounds_and_explanation() -> None:
    page = options_page()
    assert (
        "| `global_batch` | `8` | int at least 1, at most 65536 | Clips per optimiser step over all workers and" in page
    )
    assert "| `schedule` | `cosine` | cosine, linear, constant | After the warm-up:" in page
    assert "| `beta1` | `0.9` | float 0 <= value &lt; 1 |".replace("<=", "&lt;=") in page
    for name, _, _ in walk(RunConfig()):
        assert f"| `{name.rpartition('.')[2]}` |" in page, name


def test_an_explanation_is_the_docstring_below_a_field_of_the_class_itself() -> None:
    assert explanations(TrainConfig)["accumulation"].startswith("Micro-batches per optimiser step.")
    assert set(explanations(TrainConfig)) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert "path" in explanations(PartConfig)
    assert "path" not in explanations(SourceConfig)
