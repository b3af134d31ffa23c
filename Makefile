# Two commands: `make serve` and `make test`. Both make their own environment under .venv/.
PYTHON ?= python3
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
REQUIREMENTS := $(if $(HAS_GPU),requirements-gpu.txt,requirements.txt)
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

.PHONY: serve test environment test-container check gpu-check lock proto clean

serve: .venv/serve/.ready
	exec .venv/serve/bin/convoy serve

# Hundreds of processes start here, so what one has compiled the next does not compile again; and most of what the packages
# hold is never imported, so that it is compiled when it is (--no-compile below).
test test-container check: export PYTHONDONTWRITEBYTECODE :=

# A test process on each core, up to four; a file's tests stay together, since they share what is dear to make. One that
# dies ends the run: in its place pytest-xdist would start another, and then wait for good (its issue 1378). Clusters and
# whatever is tested under load then have the machine to themselves.
ALONE := tests/load tests/service/cluster
test: check
	.venv/test/bin/python -m pytest $(addprefix --ignore=,tests/container $(ALONE)) \
		--numprocesses auto --maxprocesses 4 --dist loadfile --max-worker-restart 0
	.venv/test/bin/python -m pytest $(ALONE)

environment: .venv/test/.ready

test-container: .venv/test/.ready
	.venv/test/bin/python -m pytest tests/container

check: .venv/test/.ready
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	.venv/test/bin/mypy

# What CUDA does here, measured and judged, into runs/gpu. WHEELS names a folder of wheels to install first, whole or in
# parts, for machines without a network (tests/gpu/README.md); OPTIONS are those of `python -m tests.gpu --help`.
GPU_CHECK := $(if $(HAS_GPU),.venv/gpu,.venv/test)
gpu-check: $(if $(WHEELS),,$(GPU_CHECK)/.ready)
	$(if $(WHEELS),$(PYTHON) -m tests.gpu --wheels $(WHEELS),$(GPU_CHECK)/bin/python -m tests.gpu) $(OPTIONS)

.venv/serve/.ready: $(REQUIREMENTS) pyproject.toml
	@$(call new_environment,.venv/serve)
	.venv/serve/bin/python $(PIP_INSTALL) --require-hashes -r $(REQUIREMENTS)
	.venv/serve/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@

.venv/test/.ready: requirements-test.txt requirements-torch.txt pyproject.toml
	@$(call new_environment,.venv/test)
	sed -n '/^uv==/,/[^\\]$$/p' requirements-test.txt > .venv/test/uv.txt
	.venv/test/bin/python $(PIP_INSTALL) --require-hashes -r .venv/test/uv.txt
	.venv/test/bin/uv pip install --quiet --system-certs --python .venv/test --require-hashes -r requirements-test.txt
	.venv/test/bin/python $(PIP_INSTALL) --no-compile -r requirements-torch.txt
	.venv/test/bin/python $(PIP_INSTALL) --no-compile --no-deps --editable .
	@touch $@

# As for the tests, but for ONNX Runtime's build: both are the same module. CUDA's libraries come with torch.
.venv/gpu/.ready: requirements-test.txt requirements-gpu.txt requirements-torch.txt pyproject.toml
	@$(call new_environment,.venv/gpu)
	sed '/^onnxruntime==/,/[^\\]$$/d' requirements-test.txt > .venv/gpu/requirements.txt
	sed -n '/^onnxruntime-gpu==/,/[^\\]$$/p' requirements-gpu.txt >> .venv/gpu/requirements.txt
	.venv/gpu/bin/python $(PIP_INSTALL) --require-hashes --no-deps -r .venv/gpu/requirements.txt
	.venv/gpu/bin/python $(PIP_INSTALL) -r requirements-torch.txt
	.venv/gpu/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@

define new_environment
$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { echo "Python 3.11 to 3.14 is needed; name one with make PYTHON=python3.14 …" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python lacks its venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }; \
rm -rf $(1) && $(PYTHON) -m venv $(1)
endef

# Refresh the pinned lists with the newest versions that pyproject.toml allows (needs uv). They are universal: a package
# that only some Pythons or systems need has that as its condition, so that one list is right from 3.11 on.
LOCK = uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 --universal
BROUGHT_BY_TORCH = torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cccl \
	nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile \
	nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
	nvidia-nvshmem-cu13 nvidia-nvtx

lock:
	$(LOCK) pyproject.toml --extra cpu --extra grpc -o requirements.txt
	$(LOCK) pyproject.toml --extra gpu --extra grpc -o requirements-gpu.txt
	$(LOCK) --group image -o requirements-image.txt
	$(LOCK) pyproject.toml --extra cpu --extra cluster --extra grpc --extra parquet --extra train --extra test \
		--constraint requirements-torch.txt \
		$(addprefix --no-emit-package ,$(BROUGHT_BY_TORCH)) -o requirements-test.txt

# Messages of gRPC → Python (needs uv). What these compilers write, runtimes up to the next major version can load.
proto:
	uv run --no-project --with grpcio-tools==1.73.1 python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. \
		service/rpc/open_inference.proto

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
