# One environment for everything: .venv, made from constraints.txt. Every target works twice in a row and
# from a path with a space in it (all paths below are relative).
PYTHON ?= python3.11
PY := .venv/bin/python
export RAY_USAGE_STATS_ENABLED ?= 0
CONFIG ?= configs/demo.yaml
TEST_PROCESSES ?= 3  # one more than two cores: those with a Ray cluster often wait

.PHONY: help demo test test-slow check check-style docs sbom audit format clean

help:
	@echo "make demo       install into .venv, distil the demo's students, print where the report lies"
	@echo "make test       install into .venv, run the test suite"
	@echo "make check      ruff, mypy and the fast tests"
	@echo "make test-slow  the longer proofs"
	@echo "make docs       build/site: the documentation as pages; fails on a broken link"
	@echo "make sbom       build/sbom.json: what is installed, as CycloneDX"
	@echo "make audit      pinned versions against the advisory database"

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	.venv/bin/echodfkd distill --config $(CONFIG)

test: .venv/installed
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

test-slow: .venv/installed
	$(PY) -m pytest -m slow

check-style: .venv/installed
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy echodfkd jobs

check: check-style
	$(PY) -m pytest -q -m "not slow and not ray" tests/unit

.venv/docs-installed: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: .venv/docs-installed
	$(PY) -m mkdocs build --quiet --strict --site-dir build/site

.venv/audit-installed: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	touch $@

sbom: .venv/audit-installed
	mkdir -p build
	$(PY) -m cyclonedx_py environment --output-reproducible --of JSON -o build/sbom.json $(PY)

audit: .venv/audit-installed
	$(PY) .ci/audit.py

format: .venv/installed
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
