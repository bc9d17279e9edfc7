# The command line in an image; how it is run: docs/install.md. Nothing but the folders that are mounted is written to.
#     docker build -t memcarve .
ARG BASE=python:3.13.9-slim-bookworm

FROM ${BASE} AS build
# the part in C is compiled here; the image itself has no compiler
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md constraints.txt ./
COPY distribution distribution
COPY src src
RUN python3 -m venv /opt/memcarve \
    && /opt/memcarve/bin/pip install --no-cache-dir -c constraints.txt ".[blake3,disassembly,dwarf,find,lz4,yara,zip]" \
    && /opt/memcarve/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="memcarve" \
      org.opencontainers.image.description="Carve a process's memory into its contiguous segments" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# a number is enough for who runs it; the name is for those who look
RUN useradd --uid 10001 --no-create-home --home-dir /out --shell /usr/sbin/nologin memcarve \
    && mkdir /evidence /out \
    && chown memcarve: /out
COPY --from=build /opt/memcarve /opt/memcarve
# what is compiled was compiled when it was installed; nothing else can be written
ENV PATH="/opt/memcarve/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8
USER 10001:10001
WORKDIR /evidence
# it does what it is told and ends: there is no service whose health could be asked for
HEALTHCHECK NONE
ENTRYPOINT ["memcarve"]
CMD ["--help"]
