# `make study` and `make test` do all the set-up a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help study test check dev clean
help:       ## show this list
	@grep -E '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'
study: dev  ## search the digits task (three minutes on two cores) and print what was found
	$(BIN)/paretune study experiment=digits
test: dev   ## the whole default test suite, a process per core
	$(BIN)/pytest -n auto --dist worksteal
check: dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
dev: .venv/ready  ## only set up: .venv with the exact tested packages
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
clean:      ## remove the set-up, not the results
	rm -rf .venv build dist *.egg-info
