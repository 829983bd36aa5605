# Thin on purpose: each target is one or two commands that README.md shows as well.
PYTHON ?= python3
VENV ?= .venv
NB ?=

BIN := $(VENV)/bin
EXTRAS := notebooks audio test grading
STAMP := $(VENV)/.stamp
ONLY := $(if $(NB),--only $(NB))

.DEFAULT_GOAL := help
.PHONY: help setup data course lab exercises grade test browser lint notebooks measure oldest clean

help: ## say what there is to do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "NB=03 picks one chapter (course, test, notebooks); PYTHON=... the interpreter, VENV=... the folder"

setup: $(STAMP) ## make the virtual environment and install everything into it

$(STAMP): pyproject.toml scripts/setup_venv.py
	@$(PYTHON) scripts/setup_venv.py $(VENV) $(EXTRAS)
	@touch $@

data: setup ## fetch the data sets and check them
	@$(BIN)/minidiff fetch

course: data ## execute every notebook in order, into build/course/index.html
	@$(BIN)/python scripts/course.py $(ONLY)

lab: data ## open the course in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

exercises: setup ## make exercises/ from solutions/
	@$(BIN)/python scripts/exercises.py

grade: data ## grade the submissions in a folder: make grade SUBMISSIONS=folder
	@$(BIN)/python scripts/grade.py $(if $(SUBMISSIONS),"$(SUBMISSIONS)")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: data lint ## lint, type check, tests, doctests, browser and every notebook
	@$(BIN)/python scripts/browser.py
	$(BIN)/pytest
	MINIDIFF_BUDGET=quick $(BIN)/pytest $(wildcard notebooks/$(NB)*.ipynb solutions/$(NB)*/*.ipynb) \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300

browser: data ## drive the interactives in a headless browser
	@$(BIN)/python scripts/browser.py
	$(BIN)/pytest tests/test_browser.py

notebooks: data ## execute the lessons and write their outputs back, ready to commit
	@$(BIN)/python scripts/notebooks.py $(ONLY)

measure: data ## compute the quality figures of benchmarks/results
	@$(BIN)/python benchmarks/measure.py

oldest: ## run the tests with the oldest dependencies that pyproject.toml allows
	@mkdir -p build
	@$(PYTHON) scripts/oldest.py > build/oldest.txt
	PIP_CONSTRAINT=build/oldest.txt $(MAKE) test VENV=.venv-oldest

clean: ## remove what was built, but no virtual environment and no data
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
