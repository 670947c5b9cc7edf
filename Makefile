# make train: from nothing to the table of F1 per band.   make test: the same set-up, then all tests.
# make sanitize: the C++ tests under AddressSanitizer, UBSan and ThreadSanitizer.   make fuzz: both fuzzers, FUZZ_SECONDS each.
# make bench: every op beside its reference and the public peers.   make compat: the kernels' tests under three Tritons.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
RUN    ?= runs/demo
JOBS   ?= $(shell nproc)
FUZZ_SECONDS ?= 60
GPU_PYTHON ?= python3.12

.PHONY: setup train test cpp sanitize fuzz bench compat gpu-wheels lint format clean

setup: $(VENV)/installed

SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.[ch]pp csrc/*/*.[ch]pp)
INSTALL  = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable

$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[ingest]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) '.[ingest,dev]'
	touch $@

train: setup
	$(BIN)/python -m rsdnet.train --run $(RUN) --resume
	$(BIN)/python -m rsdnet.probe $(RUN)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

# The C++ tests alone: no Python, no virtual environment. All three: csrc/README.md.
cpp:
	$(MAKE) -C csrc -j$(JOBS) test

sanitize:
	$(MAKE) -C csrc -j$(JOBS) test SANITIZE=address,undefined
	$(MAKE) -C csrc -j$(JOBS) test SANITIZE=thread

fuzz:
	$(MAKE) -C csrc -j$(JOBS) fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)

# BENCH=--rows=benches/results keeps the rows. Peers are measured where installed: kornia, torchvision, lightly, timm.
# On a GPU this takes longer than ten minutes: python -m benches.gpu does it by stages (docs/gpu.md).
bench: $(VENV)/installed-dev
	$(BIN)/python -m pytest benches/ --benchmark-only $(BENCH)

# The kernels compiled offline and run in the interpreter, under each Triton in an environment of its own.
compat:
	$(PYTHON) -m benches.compat

# The wheels that a GPU machine without network lacks: build/gpu-wheels (docs/gpu.md).
gpu-wheels:
	$(PYTHON) -m benches.gpu.wheels --python $(GPU_PYTHON) --peers

CPP := $(wildcard csrc/*.[ch]pp csrc/*/*.[ch]pp)

# mypy and import-linter need kernels/ at its import path: as rsdnet/kernels.
lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	mkdir -p build/typing/rsdnet
	rm -f build/typing/rsdnet/*
	for part in rsdnet/*; do ln -sfn ../../../$$part build/typing/$$part; done
	ln -sfn ../../../kernels build/typing/rsdnet/kernels
	ln -sfn ../../benches build/typing/benches
	cd build/typing && $(BIN)/mypy --config-file ../../pyproject.toml -p rsdnet -p benches
	cd build/typing && $(BIN)/lint-imports --no-logo ../../pyproject.toml

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build $(VENV) *.egg-info rsdnet/*.so
