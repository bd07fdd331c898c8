# `make` on a fresh clone installs the environment and runs the study "demo"; `make help` lists the rest.

STUDY ?= demo
CORES ?= all
DIRECTORY ?= $(CURDIR)
PYTHON ?= python3
OUTPUT ?= results/benchmarks
UV_VERSION := 0.9.30

# config/config.yaml is the demo and is always read; any other study is laid over it.
CONFIGFILE := config/$(if $(filter demo,$(STUDY)),config,$(STUDY)).yaml
CONFIG := $(if $(filter demo,$(STUDY)),,--configfile $(CONFIGFILE))

# Runs a command of Snakemake without its own messages, and shows them if it fails: `--quiet all` would hide the reason too.
quietly = messages=$$(mktemp); $(1) 2> $$messages; status=$$?; \
	[ $$status = 0 ] || grep -v '^Missing metadata' $$messages >&2; rm $$messages; exit $$status

# Each makes a numerical library (PyTorch, NumPy, OpenBLAS, Numba) leave out what the processor has and older ones lack.
# NumPy 2.4 names its groups of instructions so: X86_V4 and what follows is AVX-512, X86_V3 is AVX2.
PROCESSORS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 \
	NPY_DISABLE_CPU_FEATURES=X86_V4,AVX512_ICL,AVX512_SPR NPY_DISABLE_CPU_FEATURES=X86_V3,X86_V4,AVX512_ICL,AVX512_SPR \
	OPENBLAS_CORETYPE=Haswell NUMBA_CPU_NAME=generic OMP_NUM_THREADS=1 OMP_NUM_THREADS=2

# Not plain sh: with the default shell, make 3.81 (macOS) looks commands up on its own PATH, not on the one set here.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: all env study plan status report publish readme cancel clean-scratch clean-snapshots test test-slow test-processors test-slurm bench lint lock clean help

all: study ## install the environment and run a study to its figures and claims (STUDY=demo, CORES=all)
	snakemake --cores $(CORES) $(CONFIG)

env: .venv/.installed ## install the environment into .venv (PYTHON=python3)

# .venv/.installing stays behind when an install is interrupted; the next one then starts from nothing.
# uv, not pip, installs the packages: it does not read pip's configuration, so that every machine gets the pinned ones.
.venv/.installed: envs/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) is not Python 3.11 or newer: name one that is, e.g. `make PYTHON=python3.12`.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo '$(PYTHON) lacks the module venv: on Debian and Ubuntu, install the package python3-venv.' >&2; exit 1; }
	@echo "Installing the environment into .venv (about a minute on a fast connection, 5 GB) ..."
	@if [ -e .venv/.installing ]; then rm -rf .venv; fi
	@mkdir -p .venv && touch .venv/.installing
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python -r envs/requirements.txt
	@rm .venv/.installing && touch $@

study: env
	@PYTHONPATH=workflow/scripts python -m rank_increase.configuration '$(CONFIGFILE)'

plan: study ## print what a study will cost: jobs, GPU-hours, disk (STUDY=paper)
	@$(call quietly,snakemake plan --cores 1 --nolock $(CONFIG))

status: study ## print how far a study has come, also while it runs (STUDY=paper)
	@$(call quietly,snakemake status --cores 1 --nolock $(CONFIG))

clean-scratch: study ## delete what runs keep to go on from, of finished runs
	@$(call quietly,snakemake clean_scratch --cores 1 $(CONFIG))

clean-snapshots: study ## delete that and the weights of runs whose spectra are there: a new measure would train anew
	@$(call quietly,snakemake clean_snapshots --cores 1 $(CONFIG))

report: study ## write claims, figures, configuration, rule graph and run times of a finished study to one page (STUDY=demo)
	@($(call quietly,snakemake --cores 1 --nolock $(CONFIG) --report results/$(STUDY)/report.html)) || \
		{ echo 'A report is made of a finished study: `make STUDY=$(STUDY)` first.' >&2; exit 1; }
	@echo "Report in $(CURDIR)/results/$(STUDY)/report.html"

publish: study ## copy tables, figures and claims of a study to results/published (STUDY=demo)
	snakemake --cores 1 publish $(CONFIG)

readme: env ## put the numbers of results/published into README.md
	PYTHONPATH=workflow/scripts python tests/readme.py

# Jobs outlive a controller that is killed: they save their state when cancelled, and the next controller goes on.
cancel: ## after a controller has died: cancel the SLURM jobs of this folder and unlock it (DIRECTORY=.)
	@squeue --me --noheader --format='%A|%Z' | awk -F '|' -v folder='$(DIRECTORY)' '$$2 == folder {print $$1}' | \
		xargs --no-run-if-empty scancel
	@while squeue --me --noheader --format='|%Z|' | grep --quiet --fixed-strings '|$(DIRECTORY)|'; do sleep 1; done
	@$(call quietly,snakemake --unlock --directory '$(DIRECTORY)')

test: env ## run the tests
	pytest

test-slow: env ## run the tests that take longer, three minutes
	pytest -m "slow and not slurm"

test-processors: env ## run the tests as on other processors, and with one and two threads (an hour)
	@for setting in $(PROCESSORS); do \
		echo "$$setting:"; env $$setting pytest || failed="$$failed $$setting"; \
	done; if [ "$$failed" ]; then echo "Tests failed under$$failed." >&2; exit 1; fi

test-slurm: env ## start a SLURM of one node, test the profile on it, stop it (Debian or Ubuntu, as root)
	tests/slurm/start_slurm.sh
	pytest -m slurm tests/slurm; status=$$?; tests/slurm/stop_slurm.sh; exit $$status

bench: env .venv-benchmark/.installed ## measure speed against peers (QUICK=1, OUTPUT=results/benchmarks)
	PYTHONPATH=workflow/scripts OMP_NUM_THREADS=1 python tests/benchmarks --output $(OUTPUT) $(if $(QUICK),--quick)

# Without their dependencies, which are those of the product: found behind its packages, they replace none.
.venv-benchmark/.installed: envs/benchmark.txt | env
	@rm -rf .venv-benchmark
	@uv pip install --quiet --no-deps --target .venv-benchmark -r envs/benchmark.txt
	@touch $@

lint: env ## check style, spelling and the workflow
	ruff check
	ruff format --check
	snakefmt --check .
	codespell
	snakemake --lint

lock: env ## pin every version in envs/ from envs/requirements.in
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --custom-compile-command "make lock" \
		--output-file envs/requirements.txt envs/requirements.in
	sed -i.old '/- pip:/q' envs/environment.yaml && rm envs/environment.yaml.old
	sed -n "s/^\([a-z].*\)/      - \1/p" envs/requirements.txt >> envs/environment.yaml

clean: ## remove the environment and caches, but no results
	rm -rf .venv .venv-benchmark .pytest_cache .ruff_cache .hypothesis
	find workflow tests -name __pycache__ -prune -exec rm -rf {} +

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
