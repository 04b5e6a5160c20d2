# The front door. Each target sets up what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13,$(if $(shell $(p) -c 'import sys; print("yes" if (3, 11) <= sys.version_info[:2] <= (3, 13) else "")' 2>/dev/null),$(p))))
BIN := .venv/bin
TESTS ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo demo-down
demo: .venv/demo.stamp ## Deploy a real model to a device in a folder, update it, roll it back
	@$(BIN)/python -m demo.run
demo-down: ## Stop the demo and remove it
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m demo.down; else echo "no demo here"; fi

.PHONY: test test-full test-vm test-pythons check fix
test: .venv/dev.stamp ## Run the tests (with CI=true a missing part is a failure)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)
test-full: .venv/dev.stamp ## Run the tests and the long sweeps that CI leaves out
	SUREFOOT_FULL=1 SUREFOOT_CYCLES=$${SUREFOOT_CYCLES:-100000} \
	  $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not vm" $(TESTS)
test-vm: .venv/dev.stamp ## Boot, seal and abuse a virtual device (root on Debian; hours): TESTS=tests/system/test_sealed_root.py for a part
	SUREFOOT_VM=1 $(BIN)/python -m pytest -s -m vm $(or $(TESTS),tests/system)
test-pythons: ## Run the app's tests on each of Python 3.10 to 3.13 that is here
	.ci/pythons
check: .venv/dev.stamp ## Check style, types, layers, playbooks and scripts; edits nothing
	.ci/check
fix: .venv/dev.stamp ## Format, and mend what can be mended without thought
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench-quick bench-images bench-deploy bench-gates bench-updates
bench-quick: .venv/dev.stamp ## Print what the gateway adds to a direct call of the runtime
	@$(BIN)/python -m bench.quick
bench-gates: .venv/dev.stamp ## Print how often the latency gate errs, over 300 trials of each kind (half an hour)
	@$(BIN)/python -m bench.gates $(GATES)
bench-updates: .venv/dev.stamp ## Print what a rollback, an install and a status take (five minutes; its own ext4 as root on Linux)
	@$(BIN)/python -m bench.updates $(UPDATES)
bench-images: .venv/dev.stamp ## Print how long an arm64 image takes to build, and a change of the app
	@$(BIN)/python -m bench.images
bench-deploy: .venv/dev.stamp ## Print how long a deploy with nothing to do takes a device (needs root on Debian)
	@$(BIN)/python -m bench.deploy

.PHONY: models model-report
models: ## Train and quantise the reference model again (about an hour)
	models/build
model-report: .venv/demo.stamp ## Measure the committed models on all 10,000 test images
	@PYTHON=$(abspath $(BIN))/python models/build --report

.PHONY: bundle-macos bundle-linux
bundle-macos: .venv/dev.stamp ## Build dist/surefoot-VERSION-macos-arm64.tar.gz (BUNDLE="--interpreter FILE ...")
	@$(BIN)/python -m images.bundle macos-arm64 $(BUNDLE)
bundle-linux: .venv/dev.stamp ## Build dist/surefoot-VERSION-linux-….tar.gz for amd64 and arm64 (the engine systemd)
	@$(BIN)/python -m images.bundle linux-amd64 $(BUNDLE)
	@$(BIN)/python -m images.bundle linux-arm64 $(BUNDLE)

.PHONY: image-jetson image-rpi image-generic image-generic-openvino lock-base pin-bases
image-rpi: .venv/dev.stamp ## Build the image for Raspberry Pi 4 and 5 into dist/ (needs a Docker engine)
	@$(BIN)/python -m images.build rpi
image-generic: .venv/dev.stamp ## Build the images for any amd64 and arm64 machine
	@$(BIN)/python -m images.build generic
image-generic-openvino: .venv/dev.stamp ## Build the image for amd64 with OpenVINO
	@$(BIN)/python -m images.build generic-openvino
image-jetson: .venv/dev.stamp ## Build the image for Jetson (JETPACK=7: for JetPack 7 instead of 6)
	@$(BIN)/python -m images.build jetson-jp$(or $(JETPACK),6)
lock-base: .venv/dev.stamp ## Resolve the Debian packages of images again (needs apt)
	@$(BIN)/python -m images.base.lock
pin-bases: .venv/dev.stamp ## Read the digests of the vendors' bases from their registries
	@$(BIN)/python -m images.pins

.PHONY: push offline-kit
push: .venv/dev.stamp ## Push the built images: REGISTRY=host[:port]/name [PLATFORM=rpi]
	@$(BIN)/python -m images.push "$(REGISTRY)" $(PLATFORM)
offline-kit: .venv/dev.stamp ## Gather a signed folder for a USB stick: PLATFORM=rpi REPOSITORY=folder KEYS=folder
	@$(BIN)/python -m images.kit.gather "$(PLATFORM)" --repository "$(REPOSITORY)" --keys "$(KEYS)"

.PHONY: collection reference lock clean
collection: .venv/demo.stamp ## Build the Ansible collection surefoot.edge into dist/
	$(BIN)/ansible-galaxy collection build --force --output-path dist .
reference: .venv/demo.stamp ## Write the parts of docs/reference that the code itself knows
	$(BIN)/python -m docs.reference.generate
lock: ## Resolve the locks again (needs uv)
	requirements/lock
clean: demo-down ## Remove everything that was built here
	rm -rf .venv .venv-models dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .ansible
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

.venv/%.stamp: requirements/%.lock app/pyproject.toml requirements/venv
	@requirements/venv $* "$(PYTHON)"
