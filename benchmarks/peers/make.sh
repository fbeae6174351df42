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
if [ ! -x .venv/peers/bentoml/bin/python ]; then
  "$python" -m venv .venv/peers/bentoml
  .venv/peers/bentoml/bin/python -m pip install --quiet --disable-pip-version-check 'bentoml==1.4.39' 'onnxruntime==1.31.1' 'tokenizers==0.23.3'
fi
.venv/peers/bentoml/bin/python -c 'import importlib.metadata as m; print("peers: bentoml", m.version("bentoml"))'
# PyTriton brings the binary of Triton. Its Python backend embeds an interpreter of 3.11.2 and reads the
# library of ours, where multiprocessing asks a lock for what interpreters have from 3.11.7 on; the lock
# that is written in Python has it.
if [ ! -x .venv/peers/triton/bin/python ]; then
  "$python" -m venv .venv/peers/triton
  .venv/peers/triton/bin/python -m pip install --quiet --disable-pip-version-check 'nvidia-pytriton==0.7.0' 'onnxruntime==1.31.1' 'tokenizers==0.23.3'
fi
packages=$(.venv/peers/triton/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cat > "$packages/older_interpreter.py" <<'EOP'
import threading
from multiprocessing import resource_tracker

if not hasattr(threading.RLock(), "_recursion_count"):
    resource_tracker._resource_tracker._lock = threading._PyRLock()
EOP
echo 'import older_interpreter' > "$packages/older_interpreter.pth"
.venv/peers/triton/bin/python -c 'import importlib.metadata as m; print("peers: pytriton", m.version("nvidia-pytriton"))'
