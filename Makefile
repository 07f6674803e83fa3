# One environment for everything: .venv, made from constraints.txt. Every target works twice in a row and
# from a path with a space in it (all paths below are relative).
PYTHON ?= python3.11
# where torch comes from, if not PyPI: https://download.pytorch.org/whl/cpu is GB less than PyPI's build with CUDA
TORCH_INDEX ?=
PY := .venv/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
export RAY_USAGE_STATS_ENABLED ?= 0
CONFIG ?= configs/demo.yaml
TEST_PROCESSES ?= 3  # one more than two cores: those with a Ray cluster often wait

.PHONY: help demo test walk test-slow check check-style docs sbom audit format clean

help:
	@echo "make demo       install what a run needs into .venv, distil the demo's students, print where the report lies"
	@echo "make test       install into .venv, run the test suite"
	@echo "make walk       run every command of the README in a clean environment"
	@echo "make check      ruff, mypy and the fast tests"
	@echo "make test-slow  the longer proofs"
	@echo "make docs       build/site: the documentation as pages, with a sample report; fails on a broken link"
	@echo "make sbom       build/sbom.json: what is installed, as CycloneDX"
	@echo "make audit      pinned versions against the advisory database"

.venv/demo-installed: setup.cfg setup.py pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --extra-index-url https://pypi.org/simple) torch==2.13.0
	$(PIP) -e '.[live]'
	touch $@

.venv/installed: .venv/demo-installed
	$(PIP) -e '.[dev]'
	touch $@

demo: .venv/demo-installed
	.venv/bin/echodfkd distill --config $(CONFIG)

test: .venv/installed
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

walk: .venv/installed
	$(PY) -m pytest -q -s -m slow -k README tests/integration/test_clean_install.py

test-slow: .venv/installed
	$(PY) -m pytest -m slow

check-style: .venv/installed
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy echodfkd jobs

check: check-style
	$(PY) -m pytest -q -m "not slow and not ray" tests/unit

.venv/docs-installed: .venv/installed
	$(PIP) --quiet -e '.[docs]'
	touch $@

build/sample/report.html: .venv/installed
	.venv/bin/echodfkd distill --config configs/demo.yaml storage=build name=sample train.steps=40 \
	    train.checkpoint_every=20 evaluation.cases=12

docs: .venv/docs-installed build/sample/report.html
	$(PY) -m mkdocs build --quiet --strict --site-dir build/site

.venv/audit-installed: .venv/installed
	$(PIP) --quiet -e '.[audit]'
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
