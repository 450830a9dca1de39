# docker build -t sb3_ddpg_ext . && docker run --rm sb3_ddpg_ext
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
# PyTorch's CPU build; without this line, the CUDA build, for `docker run --gpus all`
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /sb3_ddpg_ext
COPY . .
RUN make .venv/.train
CMD ["make", "train"]
