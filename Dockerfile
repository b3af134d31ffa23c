# docker build -t convoy .                  CPU
# docker build -t convoy --target gpu .     NVIDIA GPU
FROM python:3.11-slim-bookworm AS build-cpu
COPY requirements.txt /src/
RUN python -m venv /opt/convoy \
 && /opt/convoy/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /src/requirements.txt
COPY pyproject.toml README.md LICENSE /src/
COPY service /src/service
RUN /opt/convoy/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /src

FROM python:3.11-slim-bookworm AS build-gpu
COPY requirements-gpu.txt /src/
RUN python -m venv /opt/convoy \
 && /opt/convoy/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /src/requirements-gpu.txt
COPY pyproject.toml README.md LICENSE /src/
COPY service /src/service
RUN /opt/convoy/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /src

FROM python:3.11-slim-bookworm AS runtime
RUN useradd --uid 10001 --no-create-home convoy \
 && install --directory --owner convoy /jobs
COPY models /models
ENV PATH=/opt/convoy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 CONVOY_HOST=0.0.0.0 CONVOY_MODELS_DIR=/models \
    CONVOY_JOBS_DIR=/jobs
USER convoy
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD \
  ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"CONVOY_PORT\", 8000)}/readyz', timeout=2)"]
CMD ["convoy", "serve"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/convoy /opt/convoy

FROM runtime AS cpu
COPY --from=build-cpu /opt/convoy /opt/convoy
