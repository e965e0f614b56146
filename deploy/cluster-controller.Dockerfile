# docker build -f deploy/cluster-controller.Dockerfile -t localhost/sfc/cluster-controller:dev .
# Python, our packages and the libraries they need: no shell, no package tools, nothing else to run.
# The base by tag: only a registry knows its digest of today. Name it where you have one, by --build-arg BASE=…@sha256:…
ARG BASE=docker.io/library/debian:bookworm-slim
FROM ${BASE} AS packages
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-venv
COPY requirements.lock .
COPY deploy/shell-less /usr/local/bin/shell-less
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --target /root-fs/usr/lib/sfc/packages --require-hashes --only-binary=:all: -r requirements.lock && shell-less /root-fs

FROM packages AS code
COPY sfc /usr/lib/sfc/sfc
COPY kube /usr/lib/sfc/kube
COPY serving /usr/lib/sfc/serving
COPY certs /usr/lib/sfc/certs
COPY controller /usr/lib/sfc/controller
RUN python3 -m compileall -q /usr/lib/sfc

FROM scratch
COPY --from=packages /root-fs /
COPY --from=code /usr/lib/sfc /usr/lib/sfc
ENV PATH=/usr/bin PYTHONPATH=/usr/lib/sfc/packages PYTHONUNBUFFERED=1
WORKDIR /usr/lib/sfc
USER 65532:65532
ENTRYPOINT ["python3", "-m", "controller", "cluster"]
