# Any Debian-like base will do, with or without a python of its own:
#   docker build -t rsseg --build-arg BASE_IMAGE=debian:bookworm-slim .
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}

# rasterio's wheels load the system's libexpat, which slim images lack.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libexpat1 \
    && { python3 -c "import ensurepip" 2>/dev/null \
        || apt-get install -y --no-install-recommends python3 python3-venv; } \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && mkdir -m 1777 /data /runs

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# The dependencies come first, from what names them alone, so that a change of code leaves this layer cached.
# The editable install points to /app/rsseg: here a stub, below the real package.
WORKDIR /app
COPY pyproject.toml hatch_build.py ./
RUN mkdir rsseg && touch README.md rsseg/__init__.py && pip install --no-cache-dir -e .

COPY . .

# The default `output=runs` is /runs here, without an argument that would show in the names of sweeps or stand before -m.
RUN ln -s /runs /app/runs

# Nothing here depends on who runs it: `docker run --user $(id -u)` may be a user that the image has never heard of,
# so the home and the name come from the environment, and /data and /runs are open to all.
ENV HOME=/tmp \
    USER=rsseg \
    MPLCONFIGDIR=/tmp/matplotlib \
    RSSEG_DATA=/data
USER 1000:1000
ENTRYPOINT ["python", "train.py"]
