# dnerf in a container. CPU by default; with CUDA (the NVIDIA container toolkit on the host):
#   docker build -t dnerf . ; docker build -t dnerf:cuda --build-arg TORCH_INDEX= .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/portraits" dnerf train me.mp4        (for CUDA also: --gpus all)
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/portraits" -p 127.0.0.1:7860:7860 dnerf app --host 0.0.0.0
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libegl1 libgles2 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt settings.ini setup.py MANIFEST.in README.md LICENSE NOTICE CHANGELOG.md CITATION.cff CONTRIBUTING.md ./
COPY dnerf dnerf
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} '.[app,credentials,live]' && rm -rf build
RUN useradd --create-home dnerf && mkdir /portraits && chown dnerf /portraits
USER dnerf
WORKDIR /portraits
# any user may run it: what is written lies in the mounted folder, where functions that Numba has compiled are kept too
ENV DNERF_HOME=/portraits HOME=/tmp USER=dnerf NUMBA_CACHE_DIR=/portraits/.numba
ENTRYPOINT ["dnerf"]
CMD ["--help"]
