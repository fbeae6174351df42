"""torch + transformers for text models: any Hugging Face sequence classifier, on CUDA or the CPU.

DistilBERT, BERT, RoBERTa, DeBERTa and their like, from the version's folder (safetensors only, no
remote code, verified against the manifest). On CUDA: bf16 or fp16 as
`parameters.precision` says, scaled-dot-product attention, pinned buffers copied on a side stream,
lengths padded to few sizes so that kernels are chosen once. On the CPU: float32, or bf16 if the
manifest asks for it, and bounded threads (unpinned ones of ONNX Runtime and torch slowed torch 50x,
onnxruntime#13808).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.manifest import Manifest
from services.inference.adapters.onnx_text_engine import cpu_quota, pad
from services.inference.domain.ports import DeviceLostError, DeviceMemoryError, Scores

# Lengths that batches are padded to on CUDA; multiples of 8 beyond feed the tensor cores.
CUDA_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
_INSTALL = "the torch engine is not installed: pip install 'gatehouse[torch]'"


class TorchTextEngine:
    """Engine over one checkpoint on one device; several devices give one executor each."""

    def __init__(self, directory: Path, manifest: Manifest, *, device: str | None = None) -> None:
        """Load.

        Args:
            directory: the version's folder, which holds config.json and model.safetensors.
            manifest: its manifest.
            device: `cpu` or `cuda`; None takes CUDA when there is one.

        Raises:
            ValueError: torch is missing, or the checkpoint has other labels.
        """
        try:
            import torch
            from transformers import AutoModelForSequenceClassification
        except ImportError:
            raise ValueError(_INSTALL) from None
        self._torch = torch
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._is_cuda = kind == "cuda"
        parameters = manifest.parameters
        self._dtype = _dtype(torch, str(parameters.get("precision", "")), self._is_cuda)
        options: dict[str, Any] = {
            "use_safetensors": True,
            "trust_remote_code": False,
            "local_files_only": True,
            "dtype": self._dtype,
        }
        count = torch.cuda.device_count() if self._is_cuda else 1
        names = [f"cuda:{index}" for index in range(count)] if self._is_cuda else ["cpu"]
        self._models = []
        for name in names:
            model = AutoModelForSequenceClassification.from_pretrained(str(directory), **options)
            if model.config.num_labels != len(manifest.labels):
                raise ValueError(
                    f"the checkpoint has {model.config.num_labels} labels, the manifest "
                    f"{len(manifest.labels)}"
                )
            model = model.eval().to(name)
            if self._is_cuda and parameters.get("compile") is True:
                model = torch.compile(model, mode="reduce-overhead", dynamic=False)
            self._models.append((name, model))
        self.device = names[0]
        # One forward at a time per device; on the CPU torch itself uses all threads.
        self.executors = len(names)
        self.pad_multiple = 8 if self._is_cuda else 1
        if not self._is_cuda:
            torch.set_num_threads(cpu_quota())
        self._free = list(range(len(names)))
        self._streams = [torch.cuda.Stream(device=name) for name in names] if self._is_cuda else []
        self._pad_token = int(getattr(self._models[0][1].config, "pad_token_id", 0) or 0)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parameters and buffers, on all devices."""
        return sum(
            tensor.numel() * tensor.element_size()
            for _, model in self._models
            for tensor in (*model.parameters(), *model.buffers())
        )

    def collate(self, windows: Sequence[NDArray[np.int64]], length: int) -> Any:
        """Pad; on CUDA also round the length up, into pinned memory."""
        torch = self._torch
        if self._is_cuda:
            length = next((size for size in CUDA_LENGTHS if size >= length), length)
        ids, mask = pad(windows, length)
        if self._pad_token:
            ids[mask == 0] = self._pad_token  # RoBERTa's positions depend on its padding token
        tensors = (torch.from_numpy(ids), torch.from_numpy(mask))
        if not self._is_cuda:
            return tensors
        return tuple(tensor.pin_memory() for tensor in tensors)

    def forward(self, batch: Any) -> Any:
        """Run the model; on CUDA on the least recently used device."""
        torch = self._torch
        index = self._free.pop()
        name, model = self._models[index]
        try:
            with torch.inference_mode():
                if not self._is_cuda:
                    return model(input_ids=batch[0], attention_mask=batch[1]).logits
                with torch.cuda.device(name), torch.cuda.stream(self._streams[index]):
                    ids, mask = (tensor.to(name, non_blocking=True) for tensor in batch)
                    logits = model(input_ids=ids, attention_mask=mask).logits.float().cpu()
                return logits
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceMemoryError("the device is out of memory") from error
        except RuntimeError as error:
            if "CUDA error" in str(error):
                raise DeviceLostError("the CUDA context is broken") from error
            raise
        finally:
            self._free.append(index)

    def finish(self, raw: Any) -> Scores:
        """Give the logits."""
        return np.asarray(raw.float().numpy(), dtype=np.float64)

    def close(self) -> None:
        """Free the weights, and what the allocator keeps of them."""
        self._models.clear()
        if self._is_cuda:
            self._torch.cuda.empty_cache()

    def gpu_facts(self) -> list[dict[str, Any]]:
        """Tell memory (and utilisation where the driver's library is there) per CUDA device."""
        if not self._is_cuda:
            return []
        facts = []
        for name, _ in self._models:
            free, total = self._torch.cuda.mem_get_info(name)
            try:
                busy: float | None = self._torch.cuda.utilization(name) / 100
            except (ModuleNotFoundError, RuntimeError):
                busy = None
            facts.append({"device": name, "used_bytes": total - free, "utilisation": busy})
        return facts


def _dtype(torch: Any, precision: str, is_cuda: bool) -> Any:
    """Choose the number format: bf16 where the GPU has it, else fp16; on the CPU float32.

    A CPU computes in bf16 when the manifest says so: it pays only where the processor has it.
    """
    if not is_cuda:
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if precision in {"fp32", "fp16", "bf16"}:
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
