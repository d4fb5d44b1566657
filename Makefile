PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.ready
PIPOPTS ?=

.DELETE_ON_ERROR:
.PHONY: report overview digits test check bench clean

report: $(STAMP)
	$(MAKE) -j2 overview digits

overview digits: $(STAMP)
	$(BIN)/python analyses/$@.py

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,iqr,rounds

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIPOPTS) -c constraints.txt -e '.[test,check]'
	touch $@

clean:
	rm -rf $(VENV)
