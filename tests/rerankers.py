"""Tiny random rerankers of every layout, saved by transformers itself, and what its own code gives for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from checkpoints import BERT, GTE, MODERNBERT, QWEN3, WORDS, write_json
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

YES, NO = "yes", "no"
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
TASK = "Given a web search query, retrieve relevant passages that answer the query"
CHAT_SPECIALS = ["<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CLASSIFIERS = {
    "bert": "BertConfig",
    "roberta": "RobertaConfig",
    "xlm-roberta": "XLMRobertaConfig",
    "modernbert": "ModernBertConfig",
    "modernbert, mean": "ModernBertConfig",
    "gte": "GteConfig",
}
BETWEEN_BRACKETS = ("bert", "modernbert", "modernbert, mean")  # layouts whose pairs lie between [CLS] and [SEP]
SHAPES: dict[str, dict[str, object]] = {
    "bert": {**BERT, "pad_token_id": 0, "type_vocab_size": 2},
    "modernbert": {**MODERNBERT},
    "modernbert, mean": {**MODERNBERT, "classifier_pooling": "mean"},
    "gte": {**GTE, "pad_token_id": 1, "type_vocab_size": 1},
    "roberta": {**BERT, "pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {**BERT, "pad_token_id": 1, "type_vocab_size": 1},
}
EXTRA = "[ ] sep red blue green train stone museum".split()
LAYOUTS = ["causal", "logit_score", "score", *CLASSIFIERS]


def make_reranker(path: Path, layout: str, **changes: object) -> Path:
    """A checkpoint in its publisher's layout."""
    torch.manual_seed(0)
    if layout in CLASSIFIERS:
        shape = {**SHAPES[layout], "num_labels": 1, **changes}
        config = getattr(transformers, CLASSIFIERS[layout])(**shape)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    else:
        shape = {**QWEN3, "tie_word_embeddings": layout != "logit_score", "pad_token_id": 0, **changes}
        config = transformers.Qwen3Config(**shape, num_labels=1)
        kind = "Qwen3ForSequenceClassification" if layout == "score" else "Qwen3ForCausalLM"
        model = getattr(transformers, kind)(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval().save_pretrained(path)
    tokenizer = make_chat_tokenizer() if layout not in CLASSIFIERS else make_pair_tokenizer(layout)
    tokenizer.save(str(path / "tokenizer.json"))
    padding_token = "<|endoftext|>" if layout not in CLASSIFIERS else "[PAD]" if layout in BETWEEN_BRACKETS else "<pad>"
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": padding_token, "model_max_length": 512}
    names = ["input_ids", "token_type_ids", "attention_mask"] if layout == "bert" else ["input_ids", "attention_mask"]
    write_json(path / "tokenizer_config.json", {**about, "model_input_names": names})
    if layout == "logit_score":
        kinds = {"": "Transformer", "1_LogitScore": "LogitScore"}
        rows = [
            {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.x.{kind}"}
            for i, (at, kind) in enumerate(kinds.items())
        ]
        write_json(path / "modules.json", rows)
        ids = {"true_token_id": tokenizer.token_to_id(YES), "false_token_id": tokenizer.token_to_id(NO)}
        write_json(path / "1_LogitScore" / "config.json", ids)
    return path


def make_chat_tokenizer() -> Tokenizer:
    """Like Qwen3-Reranker's: special tokens for turns, and none behind a text."""
    words = [*CHAT_SPECIALS, YES, *WORDS, "document", "<", ">", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, "<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(CHAT_SPECIALS)
    return tokenizer


def make_pair_tokenizer(family: str) -> Tokenizer:
    """With the family's template for pairs."""
    is_bert = family in BETWEEN_BRACKETS
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if is_bert else ["<s>", "<pad>", "</s>", "<unk>"]
    unknown = specials[1] if is_bert else specials[3]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*specials, *WORDS, *EXTRA]))}
    if family == "xlm-roberta":  # SentencePiece's, whose vocabulary has the special tokens as pieces
        pieces = [(word, 0.0 if word in specials else -5.0) for word in vocabulary]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=vocabulary[unknown], byte_fallback=False))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if is_bert else "<s> $A </s>",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if is_bert else "<s> $A </s> </s> $B </s>",
        special_tokens=[(token, vocabulary[token]) for token in specials],
    )
    return tokenizer


def reference_of(path: Path, layout: str) -> Callable[[str, list[str]], list[float]]:
    """Logits by transformers alone, in float32, a pair at a time."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    kind = "AutoModelForCausalLM" if layout in ("causal", "logit_score") else "AutoModelForSequenceClassification"
    model = getattr(transformers, kind).from_pretrained(path, dtype=torch.float32).eval()
    yes, no = tokenizer.token_to_id(YES), tokenizer.token_to_id(NO)

    @torch.no_grad()
    def score(query: str, document: str) -> float:
        if layout in CLASSIFIERS:
            encoding = tokenizer.encode(query, document)
            types = {"token_type_ids": torch.tensor([encoding.type_ids])} if layout == "bert" else {}
            return float(model(input_ids=torch.tensor([encoding.ids]), **types).logits[0, 0])
        body = f"<Instruct>: {TASK}\n<Query>: {query}\n<Document>: {document}"
        ids = [id_ for part in (PREFIX, body, SUFFIX) for id_ in tokenizer.encode(part, add_special_tokens=False).ids]
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        return float(logits[0]) if layout == "score" else float(logits[-1, yes] - logits[-1, no])

    return lambda query, documents: [score(query, document) for document in documents]
