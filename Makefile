# Two commands matter: `make book` and `make test`. The rest is for people who change things.
#
#   PYTHON=...   the Python (3.11+) that the environment is made with
#   STRICT=1     make book: a warning is an error
#   FRESH=1      make book: execute every chapter, changed or not
#   ONLY=03_sft  make notebooks: this chapter alone

PYTHON ?= python3
STRICT ?=
FRESH ?=
ONLY ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# The stamp holds the folder it was made in. In a copied or moved folder it does not fit, and the
# environment is brought up to date; otherwise the tests would import the other folder's library.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(shell pwd))
.PHONY: $(STAMP)
endif

.PHONY: help book test lint bench browser notebooks clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make book       execute the chapters and build the HTML book into _build/html"
	@echo "make test       every check and every test"
	@echo ""
	@echo "make lint       ruff and mypy alone"
	@echo "make bench      measure speed and memory beside trl; records in runs/speed"
	@echo "make browser    test the built book in Chromium; pictures of its pages: _build/screenshots"
	@echo "make notebooks  execute the chapters again and store their outputs in book/"
	@echo "make clean      remove what was built and the caches (the environment stays)"
	@echo "make distclean  remove the environment, too"
	@echo ""
	@echo "options: PYTHON=python3.12  STRICT=1 (book)  FRESH=1 (book)  ONLY=03_sft (notebooks)"

$(STAMP): requirements.txt requirements-dev.txt constraints.txt pyproject.toml
	@sh tools/venv.sh "$(PYTHON)" "$(VENV)"

book: $(STAMP)
	@$(PY) tools/notebooks.py run $(if $(FRESH),--fresh)
	@$(PY) tools/notebooks.py stage
	@echo "== building the pages"
	@rm -rf _build/html _build/.doctrees
	@$(VENV)/bin/jupyter-book build _build/book --config _config.yml --path-output . \
		$(if $(STRICT),-W --keep-going) || { echo "stop: the book was not built; see the lines above" >&2; exit 1; }
	@$(PY) tools/notebooks.py first-page

test: lint
	@echo "== pytest"
	@$(PY) -m pytest -m "not browser"

lint: $(STAMP)
	@echo "== ruff check"
	@$(PY) -m ruff check .
	@echo "== ruff format --check"
	@$(PY) -m ruff format --check .
	@echo "== mypy"
	@$(PY) -m mypy

bench: $(STAMP)
	@$(PY) -m reft_lib bench

browser: $(STAMP)
	@test -f _build/html/index.html || { echo "stop: no built book; run make book" >&2; exit 1; }
	@$(PY) -m pytest -m browser

notebooks: $(STAMP)
	@$(PY) tools/notebooks.py run --in-place $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find reft_lib tests tools book -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) *.egg-info
