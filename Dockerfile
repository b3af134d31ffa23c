# docker build -t convoy:cpu .                    on a CPU
# docker build -t convoy:gpu --target gpu .       on an NVIDIA GPU
ARG PYTHON=python:3.11.15-slim-bookworm

FROM ${PYTHON} AS start
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

FROM start AS tools
COPY requirements-image.txt /src/
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --require-hashes -r /src/requirements-image.txt
COPY pyproject.toml README.md LICENSE /src/
COPY service /src/service
RUN /opt/tools/bin/pip install --no-build-isolation --no-deps --prefix /opt/service /src \
 && sed -i '1s:.*:#!/usr/local/bin/python:' /opt/service/bin/convoy && rm /opt/service/bin/convoy-train \
 && install --directory --owner 10001 /opt/jobs
COPY models /opt/models
RUN chmod -R a+rX /opt/models  # a checkout may be its owner's alone, and the service is another user

# Each fills /image (service/deploy/image.py), the first for a CPU, the second for a GPU.
FROM start AS packages-cpu
COPY requirements.txt /src/
RUN pip install --require-hashes -r /src/requirements.txt
COPY pyproject.toml service/deploy/image.py /src/
RUN --mount=from=tools,source=/opt/tools,target=/opt/tools /opt/tools/bin/python /src/image.py

FROM start AS packages-gpu
COPY requirements-gpu.txt /src/
RUN pip install --require-hashes -r /src/requirements-gpu.txt
COPY pyproject.toml service/deploy/image.py /src/
RUN --mount=from=tools,source=/opt/tools,target=/opt/tools /opt/tools/bin/python /src/image.py

FROM scratch AS service
LABEL org.opencontainers.image.title=Convoy \
      org.opencontainers.image.description="Image classification over HTTP with calibrated probabilities" \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.licenses=MIT
ENV PATH=/usr/local/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    CONVOY_HOST=0.0.0.0 CONVOY_MODELS_DIR=/models CONVOY_JOBS_DIR=/jobs
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["dumb-init", "--single-child", "--", "convoy"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=500ms CMD \
  ["python", "-IS", "-c", "import http.client, os; asked = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('CONVOY_PORT', 8000)), timeout=4); asked.request('GET', '/readyz'); raise SystemExit(asked.getresponse().status != 200)"]

FROM service AS gpu
COPY --from=packages-gpu /image /
COPY --from=tools /opt/service /usr/local
COPY --from=tools --chown=10001:10001 /opt/jobs /jobs
COPY --from=tools /opt/models /models
VOLUME /jobs

FROM service AS cpu
COPY --from=packages-cpu /image /
COPY --from=tools /opt/service /usr/local
COPY --from=tools --chown=10001:10001 /opt/jobs /jobs
COPY --from=tools /opt/models /models
VOLUME /jobs
