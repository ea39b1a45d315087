# syntax=docker/dockerfile:1
# Two stages: the first installs, hash by hash, what the lock files name, and compiles the request path; the second
# only runs it, as nobody special.
# No secret is copied in: they are mounted or come from the environment.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY deploy/build.lock deploy/runtime.lock ./
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r build.lock
RUN python -m venv /opt/extproc && /opt/extproc/bin/pip install --require-hashes -r runtime.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY extproc ./extproc
COPY policies ./policies
# The compiler reads the types of the libraries that it will run with.
RUN PYTHONPATH="$(echo /opt/extproc/lib/python3.*/site-packages)" EXTPROC_COMPILE=1 \
    /opt/build/bin/hatchling build -t wheel -d dist
RUN /opt/extproc/bin/pip install --no-deps --no-index dist/*.whl && /opt/extproc/bin/extproc --version | grep compiled

FROM python:3.11-slim
RUN groupadd --gid 10001 extproc \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/extproc --shell /usr/sbin/nologin extproc \
 && install -d -o extproc -g extproc -m 0700 /var/lib/extproc \
 && install -d -o extproc -g extproc -m 0755 /run/extproc
COPY --from=build /opt/extproc /opt/extproc
ENV PATH=/opt/extproc/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /etc/extproc
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
  CMD ["extproc", "health", "--config", "/etc/extproc/extproc.yaml"]
ENTRYPOINT ["extproc"]
CMD ["serve", "--config", "/etc/extproc/extproc.yaml"]
