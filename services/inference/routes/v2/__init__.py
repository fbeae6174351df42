"""The Open Inference Protocol V2 over HTTP, with the binary tensor extension.

`tensors` and `messages` are the codec, pure; `serving` runs a decoded request on any loaded model;
`describe` tells what a model takes and gives; `routes` ties them to paths. Deliberate differences
from Triton are listed in docs/v2-deviations.md.
"""
