# `make PYTHON=/path/to/python test` uses another interpreter than the one on the PATH.
PYTHON ?= python
unexport PYTHONDONTWRITEBYTECODE # else each of the many processes that tests start compiles rsseg anew

.PHONY: install test fast fuzz soak lint types format docs site image

install:  ## the project as it stands here, with the tools of the other verbs
	$(PYTHON) -m pip install -e '.[dev]'

test: lint types  ## everything that must hold, a file of tests at a time in each of two processes
	$(PYTHON) -m pytest -n 2 --dist loadfile

fast: lint types  ## the same without the slow tests
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow"

fuzz:  ## 2,000 random datasets and overrides, each of which has to give a result or a line
	$(PYTHON) tests/fuzz.py 2000

soak:  ## an hour of kills, fuzz cases, validations, comparisons, scenes; its table goes into docs/reliability.md
	$(PYTHON) tests/soak.py write=true

lint:  ## style, layout and the import contract
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()"

types:
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

docs:  ## the reference of all settings, from the schema and the YAML files
	$(PYTHON) docs/make_configuration.py

site: docs  ## the documentation as a site without network, in site/
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

image:
	docker build -t rsseg .
