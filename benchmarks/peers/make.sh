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
