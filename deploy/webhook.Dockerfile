# docker build -f deploy/webhook.Dockerfile -t localhost/sfc/webhook:dev .
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-venv
COPY requirements.txt .
RUN python3 -m venv /opt/sfc && /opt/sfc/bin/pip install --no-cache-dir -r requirements.txt && /opt/sfc/bin/pip uninstall -y pip setuptools

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sfc /opt/sfc
COPY sfc /usr/lib/sfc/sfc
COPY kube /usr/lib/sfc/kube
COPY webhook /usr/lib/sfc/webhook
RUN python3 -m compileall -q /usr/lib/sfc
ENV PATH=/opt/sfc/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
WORKDIR /usr/lib/sfc
USER 65532:65532
CMD ["python", "-m", "webhook"]
