"""Tiny random checkpoints of every family, saved by transformers itself in the sentence-transformers layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from inlay.models.registry import FAMILIES, JINA_BERT

WORDS = """
a the of and to in is that it was for on are as with his they at be this from or one had by word but
not what all were we when your can said there use an each which she do how their if will up other
about out many then them these so some her would make like him into time has look two more write go
see number no way could people my than first water been call who oil its now find long down day did
get come made may part query passage : instruct hello world
""".split()
QWEN3 = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
}
BERT = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-12,
}
DISTILBERT = {
    "vocab_size": 160,
    "dim": 48,
    "hidden_dim": 96,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 514,
}
MODERNBERT = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "local_attention": 24,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
GTE = {**BERT, "rope_parameters": {"rope_type": "linear", "rope_theta": 40_000.0, "factor": 1.5}}
NOMIC = {**BERT, "hidden_size": 64, "type_vocab_size": 2, "pad_token_id": 0}
GEMMA = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "max_position_embeddings": 1024,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "use_bidirectional_attention": True,
    "rms_norm_eps": 1e-6,
}
STATIC = "static"
QWEN2 = {key: value for key, value in QWEN3.items() if key != "head_dim"}
ENDED = ("qwen3", "qwen2")  # families whose texts end with one token
BERT_TOKENS = ("bert", "distilbert", "modernbert", "nomic_bert", JINA_BERT)  # between [CLS] and [SEP]
CONFIGS = {
    "qwen3": lambda: transformers.Qwen3Config(**QWEN3),
    "bert": lambda: transformers.BertConfig(**BERT, pad_token_id=0),
    "distilbert": lambda: transformers.DistilBertConfig(**DISTILBERT, pad_token_id=0),
    "roberta": lambda: transformers.RobertaConfig(**BERT, pad_token_id=1, type_vocab_size=1),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**BERT, pad_token_id=1, type_vocab_size=1),
    "mpnet": lambda: transformers.MPNetConfig(**BERT, pad_token_id=1),
    "modernbert": lambda: transformers.ModernBertConfig(**MODERNBERT),
    "nomic_bert": lambda: transformers.NomicBertConfig(**NOMIC),
    "gte": lambda: transformers.GteConfig(**GTE, type_vocab_size=1),
    "new": lambda: transformers.GteConfig(**GTE, type_vocab_size=2),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**GEMMA, pad_token_id=0),
    "qwen2": lambda: transformers.Qwen2Config(**QWEN2, pad_token_id=0),
    STATIC: lambda: None,  # it has none
    JINA_BERT: lambda: transformers.BertConfig(**{**BERT, "num_attention_heads": 6}, pad_token_id=0),
}
POOLING_FLAGS = {
    "last": "pooling_mode_lasttoken",
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
}


def make_checkpoint(
    path: Path,
    family: str,
    *,
    pooling: str | None = None,
    prompts: dict[str, str] | None = None,
    max_seq_length: int | None = 512,
    shard: str = "5GB",
    seed: int = 0,
    **changes: object,
) -> Path:
    """A checkpoint with random weights, big enough to tell right from wrong and loaded in milliseconds."""
    torch.manual_seed(seed)
    if family == STATIC:
        return make_static(path)
    config = CONFIGS[family]()
    for key, value in changes.items():
        setattr(config, key, value)
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.08)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
        if family in ENDED:  # published in bfloat16: what is stored has nothing to lose by loading
            parameter.data = parameter.data.bfloat16().float()
    model.save_pretrained(path, max_shard_size=shard)
    if family in PUBLISHERS:
        PUBLISHERS[family](path)
    make_tokenizer(family).save(str(path / "tokenizer.json"))
    token = {
        **dict.fromkeys(ENDED, "<|endoftext|>"),
        **dict.fromkeys(BERT_TOKENS, "[PAD]"),
    }.get(family, "<pad>")
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": token})
    write_layout(path, family, pooling, config.hidden_size, max_seq_length, prompts)
    return path


def _publish_new(path: Path) -> None:
    """GTE as its vendor publishes it: in words of its own, and stretched by NTK."""
    config = json.loads((path / "config.json").read_text())
    del config["rope_parameters"]
    write_json(
        path / "config.json",
        {
            **config,
            "model_type": "new",
            "architectures": ["NewForTokenClassification"],
            "rope_theta": 20_000.0,
            "rope_scaling": {"type": "ntk", "factor": 8.0},
            "position_embedding_type": "rope",
            "unpad_inputs": "true",
        },
    )


def _publish_jina(path: Path) -> None:
    """JinaBERT v2 in its publisher's layout: a BERT without positions, whose second halves are gated."""
    config = json.loads((path / "config.json").read_text())
    tensors = load_file(path / "model.safetensors")
    width, inner = config["hidden_size"], config["intermediate_size"]
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if "position" not in name
        and "intermediate" not in name
        and ".output." not in name.replace("attention.output", "")
    }
    for number in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{number}."
        kept[f"{at}mlp.gated_layers.weight"] = 0.08 * torch.randn(2 * inner, width)
        kept[f"{at}mlp.wo.weight"] = tensors[f"{at}output.dense.weight"].contiguous()
        kept[f"{at}mlp.wo.bias"] = tensors[f"{at}output.dense.bias"]
        for part in ("weight", "bias"):
            kept[f"{at}mlp.layernorm.{part}"] = tensors[f"{at}output.LayerNorm.{part}"]
    save_file(kept, path / "model.safetensors", {"format": "pt"})
    said = {"position_embedding_type": "alibi", "feed_forward_type": "geglu", "architectures": ["JinaBertForMaskedLM"]}
    write_json(path / "config.json", {**config, **said})


def make_static(path: Path) -> Path:
    """A StaticEmbedding in sentence-transformers' layout: no config.json, and the module in a directory of its own."""
    kinds = {"0_StaticEmbedding": "StaticEmbedding", "1_Normalize": "Normalize"}
    rows = [
        {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{kind}"}
        for i, (at, kind) in enumerate(kinds.items())
    ]
    write_json(path / "modules.json", rows)
    write_json(path / "1_Normalize" / "config.json", {})
    (path / "0_StaticEmbedding").mkdir()
    table = torch.randn(160, 64)
    save_file({"embedding.weight": table}, path / "0_StaticEmbedding" / "model.safetensors")
    make_tokenizer("bert").save(str(path / "0_StaticEmbedding" / "tokenizer.json"))
    return path


def make_bge_m3(path: Path) -> Path:
    """XLM-R with BGE-M3's two heads, stored as their publisher does: state dicts in half precision."""
    make_checkpoint(path, "xlm-roberta", pooling="cls")
    for file, width in (("sparse_linear.pt", 1), ("colbert_linear.pt", 48)):
        torch.save(torch.nn.Linear(48, width).half().state_dict(), path / file)
    return path


PUBLISHERS = {"new": _publish_new, JINA_BERT: _publish_jina}


def write_layout(
    path: Path,
    family: str,
    pooling: str | None,
    width: int,
    max_seq_length: int | None,
    prompts: dict[str, str] | None,
) -> None:
    pooling = pooling or FAMILIES[family].pooling
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    write_json(
        path / "modules.json",
        [
            {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind}"}
            for i, (folder, kind) in enumerate(kinds.items())
        ],
    )
    flags = {flag: name == pooling for name, flag in POOLING_FLAGS.items()}
    write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    write_json(path / "2_Normalize" / "config.json", {})
    write_json(path / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    if prompts is not None:
        write_json(path / "config_sentence_transformers.json", {"prompts": prompts})


def make_tokenizer(family: str) -> Tokenizer:
    """A word-level tokenizer with the special tokens and the template of the family."""
    if family in ENDED:
        specials, unknown = ["<|endoftext|>", "<unk>"], "<unk>"
        single = "$A <|endoftext|>"
    elif family in BERT_TOKENS:
        specials, unknown = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[UNK]"
        single = "[CLS] $A [SEP]"
    else:
        specials, unknown = ["<s>", "<pad>", "</s>", "<unk>"], "<unk>"
        single = "<s> $A </s>"
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, vocabulary[token]) for token in specials]
    )
    return tokenizer


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def text_of(num_words: int, seed: int = 0) -> str:
    """Words without meaning, each one token of the tiny tokenizers."""
    return " ".join(WORDS[(seed * 31 + i * (7 + seed % 5)) % len(WORDS)] for i in range(num_words))
