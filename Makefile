# make report   run the notebooks and write runs/tiny/index.html
# make test     lint, unit tests, every notebook from 01 on; make test-long runs the rest, in about two hours
# Both set up their environment in .venv first; make help lists the rest.

PYTHON ?= python3
PRESET ?= tiny
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.test-ready
WORKSHOP_READY := $(VENV)/.workshop-ready
EXPLORE_READY := $(VENV)/.explore-ready
RUNTIMES_READY := $(VENV)/.runtimes-ready
# Folders of their own: among the others they would add extensions to the JupyterLab of `make lab`.
NBGRADER := $(VENV)/nbgrader
VOILA := $(VENV)/voila
LLAMA := $(VENV)/llama
# Of llama.cpp the core alone and not optimised: a third of the time, and what runs in it is tiny.
# pip must not keep such a slow build for others, hence --no-cache-dir.
LLAMA_FLAGS = -DCMAKE_PROJECT_INCLUDE=$(CURDIR)/$(LLAMA).cmake -DLLAVA_BUILD=OFF \
  -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF -DGGML_CPU_REPACK=OFF \
  -DCMAKE_C_FLAGS_RELEASE=-O0 -DCMAKE_CXX_FLAGS_RELEASE=-O0
NOTEBOOKS = $(wildcard notebooks/0[1-9]_*.ipynb notebooks/[1-9]?_*.ipynb)
# Runs a command and shows what it prints only if it fails.
quietly = said=$$($(1) 2>&1) || { echo "$$said" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help report test test-long runtimes bench profile lint lab explore workshop refresh scope clean

help:  ## this list
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PRESET=tiny-instruct chooses a preset, ARGS='--only 01' goes to the report."

report: $(READY)  ## run on PRESET what is not done yet, write runs/PRESET/index.html
	@$(BIN)/python -m qs_helpers.report --preset $(PRESET) $(ARGS)

# Two processes with one thread each: more threads than cores would slow every test.
test test-long runtimes: export OMP_NUM_THREADS = 1
test test-long: export QS_PRESET = tiny
test test-long: export QS_OUT = runs/test
test test-long: export TQDM_DISABLE = 1
test test-long: export HF_HUB_DISABLE_PROGRESS_BARS = 1
test test-long: export QS_STATIC = 1
workshop: export PYTHONPATH = $(CURDIR)/$(NBGRADER)
test test-long runtimes: export PYTHONPATH = \
  $(CURDIR)/$(NBGRADER):$(CURDIR)/$(VOILA):$(CURDIR)/$(LLAMA)
test: $(TEST_READY) lint  ## lint, unit tests, every notebook from 01 on: at most 25 minutes
	@$(BIN)/python -m pytest -q -n 2 -m "not long" tests
	@$(BIN)/python -m pytest -q -n 2 --dist=worksteal --nbmake --nbmake-kernel=python3 \
	  --nbmake-timeout=300 $(NOTEBOOKS)

test-long: $(TEST_READY)  ## the tests that make test leaves out: two hours, on two cores
	@$(BIN)/python -m pytest -q -n 2 --dist=worksteal -m long tests

runtimes: $(TEST_READY)  ## exported steering in llama.cpp, which is built for it
	@$(MAKE) -s $(RUNTIMES_READY)
	@$(BIN)/python -m pytest -q tests/core/test_export.py

# ARGS names parts (arithmetic loading scan use training), --publish copies the results into benchmarks/.
bench: $(TEST_READY)  ## speed and memory against peers, as ratios, into runs/benchmarks
	@PYTHONPATH=tests $(BIN)/python benchmarks/bench.py $(ARGS)

profile: $(READY)  ## where the time of a scan of PRESET goes
	@$(BIN)/python benchmarks/profile_scan.py $(PRESET)

# Each line is also a hook in .pre-commit-config.yaml.
lint: $(READY)  ## style of Python and notebooks, who may import whom, declared imports
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(call quietly,$(BIN)/lint-imports --no-logo --no-cache)
	@$(call quietly,$(BIN)/deptry qs_helpers notebooks)

lab: $(READY)  ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks

# notebooks/voila.json: for this machine only, with a token, and with nothing from the network.
explore: export PYTHONPATH = $(CURDIR)/$(VOILA)
explore: export JUPYTER_PATH = $(CURDIR)/$(VOILA)/share/jupyter
explore: $(EXPLORE_READY)  ## analyze, compare and steer on PRESET, as a page without code
	@cd notebooks && QS_PRESET=$(PRESET) $(CURDIR)/$(BIN)/python -m voila explore.ipynb $(ARGS)

# ARGS='--only 01' chooses, --no-run builds without verifying.
workshop: $(WORKSHOP_READY)  ## build and verify reader, student and solution in runs/workshop
	@$(BIN)/python -m qs_helpers.report.workshop $(ARGS)

refresh: $(READY)  ## run what is stale in notebooks/ and figures/, and write it anew
	@$(BIN)/python -m qs_helpers.report --preset tiny --refresh $(ARGS)

scope: $(READY)  ## train the tiny scope anew, about an hour: 00 and qs_helpers/tiny
	@$(BIN)/python -m qs_helpers.report --preset tiny --refresh --fresh --only 00
	@cp -R runs/tiny-scope/. qs_helpers/tiny/
	@find qs_helpers/tiny -name '.*.lock' -delete
	@cp figures/00_build_tiny_scope/results.json qs_helpers/tiny/

clean:  ## remove runs/ and caches; the environment stays
	@rm -rf runs .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find qs_helpers tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than the lock files once everything in them is installed.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "Installing the environment into $(VENV): once, for a few minutes."
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q -r requirements.lock
	@$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

$(WORKSHOP_READY): $(READY) requirements-workshop.lock
	@echo "Installing what builds the workshop: once."
	@rm -rf $(NBGRADER)
	@$(BIN)/python -m pip install -q --no-deps --target $(NBGRADER) -r requirements-workshop.lock
	@touch $@

$(EXPLORE_READY): $(READY) requirements-explore.lock
	@echo "Installing what serves the explorer: once."
	@rm -rf $(VOILA)
	@$(BIN)/python -m pip install -q --no-deps --target $(VOILA) -r requirements-explore.lock
	@touch $@

$(RUNTIMES_READY): $(READY) requirements-runtimes.lock
	@command -v $${CXX:-c++} > /dev/null || { \
	  echo "llama.cpp needs a C++ compiler to be built, and there is none." >&2; exit 1; }
	@echo "Building llama.cpp: once, for one to three minutes."
	@rm -rf $(LLAMA)
	@echo 'set(LLAMA_BUILD_COMMON OFF)' > $(LLAMA).cmake
	@CMAKE_ARGS="$(LLAMA_FLAGS)" $(BIN)/python -m pip install --no-cache-dir --no-deps \
	  --target $(LLAMA) -r requirements-runtimes.lock > $(LLAMA).log 2>&1 || { \
	  tail -n 3 $(LLAMA).log >&2; echo "llama.cpp does not build: see $(LLAMA).log" >&2; exit 1; }
	@touch $@

# Where llama.cpp cannot be built, or not within eight minutes, its tests skip and say so.
$(TEST_READY): $(READY) $(WORKSHOP_READY) $(EXPLORE_READY) requirements-test.lock \
    requirements-runtimes.lock
	@echo "Installing what the tests compare with: once."
	@$(BIN)/python -m pip install -q -r requirements.lock -r requirements-test.lock
	@limit=$$(command -v timeout > /dev/null && echo timeout 480); \
	  $$limit $(MAKE) -s $(RUNTIMES_READY) || echo "llama.cpp was not built: its tests will skip."
	@touch $@
