"""Optional libraries, imported where they are used."""

from collections.abc import Iterator
from contextlib import contextmanager

from tilth.errors import MissingExtra

# import name -> the extra that installs it
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "transformers": "train",
    "pycocotools": "train",
    "sklearn": "train",
    "cleanlab": "clean",
    "onnx": "train",
    "onnxscript": "train",
    "diffusers": "synth",
    "peft": "synth",
    "accelerate": "synth",
    "controlnet_aux": "synth",
    "faiss": "mining",
    "pdqhash": "mining",
    "idna": "mining",
    "s3fs": "s3",
    "label_studio_sdk": "review",
    "groundingdino": "groundingdino",
    "onnxruntime": "runtime",
    "openvino": "openvino",
    "httpx": "runtime",
    "llama_cpp": "llamacpp",
    "mlcroissant": "cards",
    "c2pa": "c2pa",
    "cryptography": "c2pa",
    "rapidocr": "runtime",
    "fastapi": "runtime",
    "uvicorn": "runtime",
    "httpcore": "runtime",
    "prometheus_client": "runtime",
    "python_multipart": "runtime",
    "tokenizers": "runtime",
    "ray": "cluster",
    "lance_ray": "cluster",
    "grpc_reflection": "serve",  # what `ray.serve` misses first
}


@contextmanager
def optional() -> Iterator[None]:
    """Turn a missing optional library into an error that says what to install.

    A library that is present but broken keeps its own traceback.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise MissingExtra(f"{error.name} is not installed; run: pip install 'tilth[{extra}]'") from error
