# `make demo` and `make test` need Python 3.11 or newer with its venv module, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH ?= all

.PHONY: demo test acceptance dist image manifests faults fuzz compatibility manual lint format lock bench bench-report
.PHONY: clean

# JSON=1 prints the outcome as one JSON object
demo: $(VENV)/.installed
	$(BIN)/python -m bench.demo $(if $(JSON),--json)

# Daemons that tests start are not to compile the project each time, where Python is told to write no bytecode
test: $(VENV)/.installed
	$(BIN)/python -m compileall -q shoal supernode peer proxy bench
	$(BIN)/python -m pytest $(ARGS)

# What people meet: the documents' commands, the dashboard in a browser, packages, units, the chart. As root
acceptance: $(VENV)/.installed
	$(BIN)/python -m pytest tests/acceptance $(ARGS)

# What is given out, in dist/: wheel, sources, one-file programs, SBOM and their sums; the same bytes for the same commit
dist: $(VENV)/.installed
	$(BIN)/python -m deploy.packages dist

# The container image, called IMAGE; for what BASE says if set, and by docker or what BUILDER says
IMAGE ?= shoal
BUILDER ?= docker
image:
	$(BUILDER) build --file deploy/container/Dockerfile --tag $(IMAGE) $(if $(BASE),--build-arg BASE=$(BASE)) \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
		--build-arg REVISION="$$(git rev-parse HEAD)" .

# What is made from the Helm chart: plain manifests, and the table of its values
HELM ?= helm
HELM_DOCS ?= helm-docs
manifests:
	$(HELM) template shoal deploy/helm/shoal --namespace shoal --values deploy/kubernetes/values.yaml \
		--no-hooks > deploy/kubernetes/shoal.yaml
	$(HELM) template shoal deploy/helm/shoal --namespace shoal --values deploy/kubernetes/values.yaml \
		--show-only templates/cleanup.yaml > deploy/kubernetes/cleanup.yaml
	$(HELM_DOCS) --chart-search-root deploy/helm --log-level warning

# Faults in the middle of pulls; needs root for links that are cut and disks that are full. SEED=number and FAULT=name
# replay, RUNS=number is of each fault, JSON=1 ends with one JSON object
faults: $(VENV)/.installed
	$(BIN)/python -m tests.faults $(if $(JSON),--json) $(if $(SEED),--seed $(SEED)) $(if $(FAULT),--fault $(FAULT)) \
		$(if $(RUNS),--runs $(RUNS))

# All clients and origins; builds those that Debian lacks by Go, and writes docs/compatibility.md
compatibility: $(VENV)/.installed
	$(BIN)/python -m tests.world.tools
	SHOAL_COMPATIBILITY=1 SHOAL_COMPATIBILITY_PAGE=docs/compatibility.md $(BIN)/python -m pytest tests/compatibility $(ARGS)

# A million inputs; SEED=1 repeats a run, KEEP=1 adds to the corpus what reaches new code, TARGET="wire control" runs some
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz $(if $(JSON),--json) $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep) $(TARGET)

# What docs/ has from the code; `python -m manual FOLDER` writes man pages and completions
manual: $(VENV)/.installed
	$(BIN)/python -m manual

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Needs root for the benches that shape links; BENCH=hit runs one
bench: $(VENV)/.installed
	$(BIN)/python -m bench $(BENCH)

bench-report: $(VENV)/.installed
	$(BIN)/python -m bench report

# What pyproject.toml allows, as exact versions with hashes: for the developers' environment, and of the same versions
# what the packages and the image hold, and what builds them
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
	--python-version 3.11
lock: $(VENV)/.installed
	$(BIN)/pip install --quiet uv
	$(COMPILE) --group dev --extra traces pyproject.toml --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock --extra traces pyproject.toml --output-file deploy/runtime.lock
	$(COMPILE) --constraint requirements.lock --group build --output-file deploy/build.lock

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Shoal needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
