#!/bin/sh
# Makes the environments of the peers that clash with ours, inside .venv (git ignores it).
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3.11}"
if [ ! -x .venv/peers/feast/bin/python ]; then
  "$python" -m venv .venv/peers/feast
  .venv/peers/feast/bin/python -m pip install --quiet --disable-pip-version-check 'feast[redis]==0.67.0'
fi
.venv/peers/feast/bin/python -c 'import importlib.metadata as m; print("peers: feast", m.version("feast"))'
if [ ! -x .venv/peers/kserve/bin/python ]; then
  "$python" -m venv .venv/peers/kserve
  .venv/peers/kserve/bin/python -m pip install --quiet --disable-pip-version-check 'kserve==0.21.0'
fi
.venv/peers/kserve/bin/python -c 'import importlib.metadata as m; print("peers: kserve", m.version("kserve"))'
if [ ! -x .venv/peers/boto3/bin/python ]; then
  "$python" -m venv .venv/peers/boto3
  .venv/peers/boto3/bin/python -m pip install --quiet --disable-pip-version-check 'boto3==1.44.5'
fi
.venv/peers/boto3/bin/python -c 'import importlib.metadata as m; print("peers: boto3", m.version("boto3"))'
if [ ! -x .venv/peers/litellm/bin/python ]; then
  "$python" -m venv .venv/peers/litellm
  .venv/peers/litellm/bin/python -m pip install --quiet --disable-pip-version-check 'litellm[proxy]==1.106.2'
fi
.venv/peers/litellm/bin/python -c 'import importlib.metadata as m; print("peers: litellm", m.version("litellm"))'
# The servers beside which ours is measured run the same wheels of the engine and the tokenizer; workers
# of MLServer 1.7.1 do not start under a newer uvloop.
if [ ! -x .venv/peers/litserve/bin/python ]; then
  "$python" -m venv .venv/peers/litserve
  .venv/peers/litserve/bin/python -m pip install --quiet --disable-pip-version-check 'litserve==0.2.19' 'onnxruntime==1.31.1' 'tokenizers==0.23.3'
fi
.venv/peers/litserve/bin/python -c 'import importlib.metadata as m; print("peers: litserve", m.version("litserve"))'
if [ ! -x .venv/peers/mlserver/bin/python ]; then
  "$python" -m venv .venv/peers/mlserver
  .venv/peers/mlserver/bin/python -m pip install --quiet --disable-pip-version-check 'mlserver==1.7.1' 'uvloop==0.21.0' 'onnxruntime==1.31.1' 'tokenizers==0.23.3'
fi
.venv/peers/mlserver/bin/python -c 'import importlib.metadata as m; print("peers: mlserver", m.version("mlserver"))'
