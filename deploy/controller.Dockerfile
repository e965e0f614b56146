# docker build -f deploy/controller.Dockerfile -t localhost/sfc/controller:dev .
# The image of the node agent. It has BCC with its compiler, nft, and a shell, which starts the agent.
# The base by tag: only a registry knows its digest of today. Name it where you have one, by --build-arg BASE=…@sha256:…
ARG BASE=docker.io/library/debian:bookworm-slim
FROM ${BASE} AS build
# The package of the kernel headers depends on a compiler that the agent does not need: only the headers are copied.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev linux-headers-amd64 python3-venv
COPY requirements.lock .
RUN python3 -m venv --system-site-packages /opt/sfc && /opt/sfc/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements.lock && /opt/sfc/bin/pip uninstall -y pip setuptools
COPY cni /src/cni
RUN gcc -std=gnu11 -O2 -static -s -o /usr/local/bin/sfc-cni /src/cni/sfc-cni.c
# For scanners and our bill of materials: the packages of which files, but not their records, get into the image.
RUN mkdir /status.d && for package in libc6-dev $(cd /usr/src && ls -d linux-headers-*); do \
      dpkg-query --status "$package" >"/status.d/$package"; done

FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends nftables python3-bpfcc && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/src /usr/src
COPY --from=build /status.d /var/lib/dpkg/status.d
COPY --from=build /opt/sfc /opt/sfc
COPY --from=build /usr/local/bin/sfc-cni /usr/libexec/sfc/sfc-cni
COPY deploy/node-entrypoint /usr/libexec/sfc/node-entrypoint
COPY bpf /usr/lib/sfc/bpf
COPY sfc /usr/lib/sfc/sfc
COPY kube /usr/lib/sfc/kube
COPY serving /usr/lib/sfc/serving
COPY certs /usr/lib/sfc/certs
COPY controller /usr/lib/sfc/controller
RUN python3 -m compileall -q /usr/lib/sfc
ENV PATH=/opt/sfc/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
WORKDIR /usr/lib/sfc
ENTRYPOINT ["/usr/libexec/sfc/node-entrypoint", "python", "-m", "controller", "node"]
