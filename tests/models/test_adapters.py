"""Adapters: put into the weights or beside them, they give what peft gives; whatever else they ask for is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import load_adapted, make_adapter
from checkpoints import text_of, write_json
from rerankers import make_reranker
from running import are_same, collected, make_runner, run_packed, sequence_of
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from inlay.engine.adapter_tokenizers import check_tokenizers
from inlay.engine.batch import pack
from inlay.engine.device import choose
from inlay.engine.runner import Runner
from inlay.engine.tokenizer import make_tokenizer
from inlay.errors import ConfigError, ModelError
from inlay.models.adapters import parse_adapter, with_adapters
from inlay.models.building import build_model
from inlay.models.registry import FAMILIES
from inlay.models.spec import read_spec
from inlay.models.stored import StoredReport
from inlay.models.weights import weight_files
from inlay.ops.int8 import can_multiply_bytes
from inlay.types import FloatArray, ModelSpec

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "of two": {"target_modules": ["q_proj", "v_proj"]},
    "rank-stabilised": {"use_rslora": True, "r": 6},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 20},
        "alpha_pattern": {r"layers\.0\..*_proj": 3, "down_proj": 6},
    },
    "of a causal LM": {"as_causal_lm": True},
}
# Families whose publisher's layout is that of transformers, so that peft's names are theirs.
ENCODERS = ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "gemma3_text", "qwen2"]
COSINE = {"float32": 0.999999, "bfloat16": 0.9995}  # peft's own bfloat16 is as far away
LENGTHS = [3, 17, 1, 90, 40, 40]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def base(checkpoint: Checkpoint) -> Path:
    return checkpoint("qwen3")


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one of each kind."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (kind, config) in enumerate(KINDS.items()):
        make_adapter(root / kind, base, seed=seed, **config)
    return root


def ids_of(path: Path, lengths: list[int]) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return [tokenizer.encode(text_of(length, seed)).ids for seed, length in enumerate(lengths)]


def expected_of(base: Path, adapter: Path, lists: list[list[int]], pooling: str = "last") -> FloatArray:
    """Unit vectors of peft, in float32."""
    hidden_of = load_adapted(base, adapter, as_causal_lm=adapter.name == "of a causal LM")
    with torch.inference_mode():
        states = [hidden_of(ids) for ids in lists]
    rows = [{"last": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0]}[pooling].numpy() for hidden in states]
    vectors = np.stack(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def beside(base: Path, *adapters: Path, dtype: str = "float32", device: str = "cpu") -> Runner:
    """The base with adapters that are served by the names of their directories."""
    return Runner(spec_of(base, *adapters), choose(device, dtype))


def spec_of(base: Path, *adapters: Path) -> ModelSpec:
    (spec,) = with_adapters([read_spec(base, "base")], [f"{adapter.name}={adapter}" for adapter in adapters])
    return spec


def worst(found: FloatArray, expected: FloatArray) -> float:
    return float((found * expected).sum(axis=1).min())


@pytest.mark.parametrize("dtype", COSINE)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_in_the_weights_gives_what_peft_gives(base: Path, adapters: Path, kind: str, dtype: str) -> None:
    lists = ids_of(base, LENGTHS)
    runner = Runner(read_spec(base, kind, adapter=adapters / kind), choose("cpu", dtype))
    found, expected = run_packed(runner, lists), expected_of(base, adapters / kind, lists)
    assert worst(found, expected) >= COSINE[dtype]
    assert (run_packed(make_runner(base, dtype), lists) * expected).sum(axis=1).max() < 0.9  # it is not the base's


@pytest.mark.parametrize("dtype", COSINE)
def test_adapters_beside_a_base_give_what_peft_gives_in_one_batch(base: Path, adapters: Path, dtype: str) -> None:
    runner = beside(base, *(adapters / kind for kind in KINDS), dtype=dtype)
    lists = ids_of(base, LENGTHS)
    names = [name for name in ("", *KINDS) for _ in lists]
    found = run_packed(runner, lists * (1 + len(KINDS)), names)
    alone = run_packed(make_runner(base, dtype), lists)
    assert are_same(found[: len(lists)], alone)  # the base's own are as without adapters
    for number, kind in enumerate(KINDS, 1):
        own = found[number * len(lists) : (number + 1) * len(lists)]
        assert worst(own, expected_of(base, adapters / kind, lists)) >= COSINE[dtype], kind


@pytest.mark.parametrize("dtype", COSINE)
def test_a_vector_of_an_adapter_does_not_depend_on_its_neighbours(base: Path, adapters: Path, dtype: str) -> None:
    runner = beside(base, adapters / "plain", adapters / "dora", dtype=dtype)
    lists = ids_of(base, [1, 2, 7, 7, 7, 15, 16, 17, 33, 100])
    names = ["", "dora", "plain", "", "dora", "plain", "dora", "", "plain", "plain"]
    packed = run_packed(runner, lists, names)
    alone = np.concatenate([run_packed(runner, [ids], [name]) for ids, name in zip(lists, names, strict=True)])
    turned = run_packed(runner, lists[::-1], names[::-1])[::-1]
    assert are_same(packed, alone)
    assert are_same(packed, turned)


def test_one_text_with_several_adapters_has_a_vector_of_each(base: Path, adapters: Path) -> None:
    runner = beside(base, adapters / "plain", adapters / "dora")
    ids = ids_of(base, [12])[0]
    found = run_packed(runner, [ids] * 3, ["", "plain", "dora"])
    assert np.abs(found @ found.T - np.eye(3)).max() > 0.01
    assert (found @ found.T)[~np.eye(3, dtype=bool)].max() < 0.95


def test_a_shared_beginning_is_kept_for_each_adapter_by_itself(base: Path, adapters: Path) -> None:
    runner = beside(base, adapters / "plain", adapters / "dora")
    beginning = ids_of(base, [40])[0][:-1]
    lists = [beginning + ids for ids in ids_of(base, [3, 5, 8, 13])]
    for _ in range(3):  # seen, kept, used
        for name in ("plain", "", "dora"):
            found = run_packed(runner, lists, [name] * 4)
            expected = run_packed(make_runner(base), lists) if not name else expected_of(base, adapters / name, lists)
            assert worst(found, expected) >= 0.99999, name
    store = runner._planner._prefixes
    assert store is not None
    assert {name for name, _ in store._kept} == {"", "plain", "dora"}
    mixed = ["", "plain", "dora", "plain"]
    found = run_packed(runner, lists, mixed)
    for place, name in enumerate(mixed):
        (alone,) = run_packed(runner, [lists[place]], [name])
        assert float(found[place] @ alone) >= 0.99999


def test_a_new_shared_beginning_runs_with_its_adapter_in_a_mixed_batch(base: Path, adapters: Path) -> None:
    runner = beside(base, adapters / "plain", adapters / "dora")
    beginning = ids_of(base, [40])[0][:-1]
    lists = [beginning + ids for ids in ids_of(base, [3, 5, 8, 13, 21, 34])]
    names = ["plain", "dora", "", "plain", "dora", ""]
    found = run_packed(runner, lists, names)
    for name in ("plain", "dora"):
        places = [place for place, own in enumerate(names) if own == name]
        expected = expected_of(base, adapters / name, [lists[place] for place in places])
        assert worst(found[places], expected) >= 0.999999


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_gives_what_peft_gives_too(base: Path, adapters: Path, dtype: str) -> None:
    """In a mixed batch, behind beginnings that are kept for each adapter, and for a long input in pieces."""
    runner = beside(base, *(adapters / kind for kind in KINDS), dtype=dtype, device="cuda")
    beginning = ids_of(base, [40])[0][:-1]
    lists = [beginning + ids for ids in ids_of(base, [3, 5, 8, 13])]
    names = [name for name in ("", *KINDS) for _ in lists]
    alone = run_packed(make_runner(base, dtype, "cuda"), lists)
    for _ in range(3):  # seen, kept, used
        found = run_packed(runner, lists * (1 + len(KINDS)), names)
        assert worst(found[: len(lists)], alone) >= (0.999 if dtype == "bfloat16" else 0.99999)
        for number, kind in enumerate(KINDS, 1):
            own = found[number * len(lists) : (number + 1) * len(lists)]
            assert worst(own, expected_of(base, adapters / kind, lists)) >= COSINE[dtype], kind
    if dtype == "float32":
        return  # runs no input in pieces
    (long,) = ids_of(base, [600])
    runner.size_pieces(256)
    pieces = runner.launch_in_pieces(pack([sequence_of(long, 0, "plain")]))
    while True:
        try:
            next(pieces)
        except StopIteration as finished:
            (vector,) = collected(runner, finished.value)
            break
        run_packed(runner, lists, ["dora"] * 4)
    expected = expected_of(base, adapters / "plain", [long])
    assert worst(vector[None] / np.linalg.norm(vector), expected) >= COSINE[dtype]


def test_a_long_input_runs_with_its_adapter_in_pieces(base: Path, adapters: Path) -> None:
    runner = beside(base, adapters / "plain")
    assert runner._pieces is not None
    whole = run_packed(runner, ids_of(base, [600]), ["plain"])
    runner._pieces.longest_whole = 256
    batch = pack([sequence_of(ids_of(base, [600])[0], 0, "plain")])
    assert runner.is_divisible(batch)
    pieces = runner.launch_in_pieces(batch)
    between = ids_of(base, [5])
    while True:
        try:
            next(pieces)
        except StopIteration as finished:
            vectors = collected(runner, finished.value)
            break
        run_packed(runner, between)  # a batch of the base between two pieces
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert worst(vectors, whole) >= 0.999999


@pytest.mark.skipif(not can_multiply_bytes(), reason="int8 needs Inlay's kernels, or VNNI and oneDNN")
@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_an_adapter_holds_in_int8_beside_its_base_and_in_its_weights(base: Path, adapters: Path, kind: str) -> None:
    lists = ids_of(base, LENGTHS)
    sample = [sequence_of(ids, number) for number, ids in enumerate(ids_of(base, [20, 30, 40, 50]))]
    expected = expected_of(base, adapters / kind, lists)
    for spec, name in ((spec_of(base, adapters / kind), kind), (read_spec(base, kind, adapter=adapters / kind), "")):
        runner = Runner(spec, choose("cpu", "int8"), lambda: sample, 0.9)
        assert worst(run_packed(runner, lists, [name] * len(lists)), expected) >= 0.99
        assert runner.spec.dtype == "int8"


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("is_dora", [False, True], ids=["lora", "dora"])
def test_adapters_of_other_families_give_what_peft_gives(
    checkpoint: Checkpoint, tmp_path: Path, family: str, is_dora: bool
) -> None:
    path = checkpoint(family)
    adapter = make_adapter(tmp_path / "own", path, use_dora=is_dora)
    lists, pooling = ids_of(path, [5, 33, 1]), FAMILIES[family].pooling
    expected = expected_of(path, adapter, lists, pooling)
    assert worst(run_packed(make_runner(adapter), lists), expected) >= 0.999999
    mixed = run_packed(beside(path, adapter), lists * 2, ["own"] * 3)
    assert worst(mixed[:3], expected) >= 0.999999
    assert are_same(mixed[3:], run_packed(make_runner(path), lists))


def test_every_adapter_has_a_fingerprint_of_its_own(base: Path, adapters: Path, tmp_path: Path) -> None:
    runner = beside(base, adapters / "plain", adapters / "dora")
    merged = make_runner(adapters / "plain")
    changed = tmp_path / "plain"
    shutil.copytree(adapters / "plain", changed)
    tensors = load_file(changed / "adapter_model.safetensors")
    name = next(iter(tensors))
    tensors[name][0, 0] += 1
    save_file(tensors, changed / "adapter_model.safetensors")
    specs = [runner.spec, *runner.spec.adapters.values(), merged.spec]
    specs += beside(base, changed).spec.adapters.values()
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert make_runner(base).spec.fingerprint == runner.spec.fingerprint  # adapters beside it change nothing
    assert {spec.dtype for spec in specs} == {"float32"}


def test_an_adapters_own_directory_is_served_with_the_base_that_it_names(base: Path, adapters: Path) -> None:
    spec = read_spec(adapters / "plain", "mine")
    assert (spec.path, spec.adapter) == (base, adapters / "plain")


def test_what_sentence_transformers_wrote_beside_an_adapter_counts(base: Path, adapters: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapters / "plain", own)
    write_json(own / "config_sentence_transformers.json", {"prompts": {"query": "instruct : "}})
    write_json(own / "modules.json", json.loads((base / "modules.json").read_text()))
    write_json(own / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    write_json(own / "sentence_bert_config.json", {"max_seq_length": 77})
    spec = read_spec(own, "own")
    assert (spec.prompts["query"], spec.pooling, spec.max_tokens) == ("instruct : ", "mean", 77)
    lists = ids_of(base, [5, 9])
    assert worst(run_packed(make_runner(own), lists), expected_of(base, own, lists, "mean")) >= 0.999999
    with pytest.raises(ModelError, match="pooled otherwise than base"):
        spec_of(base, own)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_bias": True}, "lora_bias"),
        ({"use_something_new": {"a": 1}}, "use_something_new"),
        ({"lora_alpha": "8"}, "$.lora_alpha"),
        ({"lora_alpha": 0}, "an alpha of 0"),
        ({"alpha_pattern": {"(": 1}}, "cannot be understood"),
        ({"alpha_pattern": {"q_proj": None}}, "$.alpha_pattern"),
        ({"rank_pattern": [1]}, "$.rank_pattern"),
        ({"r": 0}, "$.r"),
        ({"r": 8}, "by the rank 8"),
        ({"rank_pattern": {"q_proj": 2}}, "by the rank 2"),
        ({"use_rslora": "no"}, "$.use_rslora"),
        ({"use_dora": True}, "has no lora_magnitude_vector"),
        ({"target_modules": None}, "$.target_modules"),
        ({"target_modules": []}, "$.target_modules"),
        ({"target_modules": ["q_proj"]}, "does not select it"),
        ({"target_modules": "q_proj"}, "does not select it"),
        ({"exclude_modules": ["q_proj"]}, "does not select it"),
        ({"layers_to_transform": [1]}, "does not select it"),
        ({"base_model_name_or_path": 5}, "$.base_model_name_or_path"),
    ],
)
def test_what_peft_can_do_besides_is_refused_by_name(
    base: Path, adapters: Path, tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapters / "plain", own)
    config = json.loads((own / "adapter_config.json").read_text())
    write_json(own / "adapter_config.json", {**config, **changes})
    with pytest.raises(ModelError) as refused:
        Runner(read_spec(base, "x", adapter=own), choose("cpu", "float32"))
    assert named in refused.value.message


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    change(tensors)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, path / "adapter_model.safetensors")


FIRST = "base_model.model.layers.0.self_attn.q_proj"
SECOND = "base_model.model.model.layers.0.self_attn.q_proj"  # the same by the name that a causal LM gives it
PARTS = (".lora_A.weight", ".lora_B.weight")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.update({"base_model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 160)}), "embedding_A"),
        (lambda t: t.update({"base_model.model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(4, 64)}), "layers.9"),
        (lambda t: t.pop(f"{FIRST}.lora_B.weight"), "'layers.0.self_attn.q_proj' has no lora_B.weight"),
        (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.zeros(4, 32)}), "has lora_A.weight of [4, 32]"),
        (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.tensor(1.0)}), "has lora_A.weight of []"),
        (lambda t: t.update({f"{FIRST}.lora_A.weight": torch.full((4, 64), torch.nan)}), "are not finite"),
        (lambda t: t.update({f"{FIRST}.lora_magnitude_vector": torch.ones(256)}), "has a lora_magnitude_vector"),
        (lambda t: [t.pop(f"{FIRST}.lora_{part}.weight") for part in "AB"], "has no tensors of layers.0.self_attn.q"),
        (lambda t: t.clear(), "no LoRA of any linear layer"),
        (lambda t: t.update({SECOND + part: t[FIRST + part] for part in PARTS}), "is there twice"),
        (lambda t: t.update({f"{FIRST}.lora_A.default.weight": torch.zeros(4, 64)}), "lora_A.default"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_tensors(
    base: Path, adapters: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], named: str
) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapters / "plain", own)
    change_tensors(own, change)
    with pytest.raises(ModelError) as refused:
        beside(base, own)
    assert named in refused.value.message


def test_an_adapter_of_another_model_is_refused(base: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = make_adapter(tmp_path / "other", checkpoint("bert"))
    with pytest.raises(ModelError, match="an adapter of another model than the base"):
        Runner(read_spec(base, "x", adapter=other), choose("cpu", "float32"))


def test_an_adapter_of_a_rerankers_head_is_refused(tmp_path: Path) -> None:
    path = make_reranker(tmp_path / "base", "logit_score")
    adapter = make_adapter(tmp_path / "own", path, as_causal_lm=True, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match="lm_head"):
        Runner(read_spec(path, "x", adapter=adapter), choose("cpu", "float32"))


def test_a_base_that_is_not_there_is_named_with_the_remedy(adapters: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapters / "plain", own)
    config = json.loads((own / "adapter_config.json").read_text())
    write_json(own / "adapter_config.json", {**config, "base_model_name_or_path": "/home/someone/base"})
    with pytest.raises(ModelError, match=r"adapts '/home/someone/base', which cannot be found .*--adapter"):
        read_spec(own, "own")


def test_names_of_adapters_are_each_their_own(base: Path, adapters: Path) -> None:
    with pytest.raises(ConfigError, match="there is a model or adapter 'base' already"):
        with_adapters([read_spec(base, "base")], [f"base={adapters / 'plain'}"])
    for given, named in (
        (f"={adapters / 'plain'}", "is not NAME=DIR"),
        (f"law:query={adapters / 'plain'}", "a name has no ':'"),
        ("law=/nowhere", "'/nowhere' is not a directory"),
    ):
        with pytest.raises(ConfigError, match=named):
            with_adapters([read_spec(base, "base")], [given])


def test_a_directory_whose_name_has_an_equals_sign_is_a_directory(adapters: Path, tmp_path: Path) -> None:
    own = tmp_path / "r=4"
    shutil.copytree(adapters / "plain", own)
    assert parse_adapter(str(own)) == ("r=4", own)


def test_an_adapter_is_no_base_of_another(adapters: Path) -> None:
    with pytest.raises(ModelError, match="is an adapter itself"):
        read_spec(adapters / "plain", "x", adapter=adapters / "dora")


def test_a_tokenizer_beside_an_adapter_must_give_the_bases_tokens(base: Path, adapters: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapters / "plain", own)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_truncation(17)  # no id depends on it
    tokenizer.save(str(own / "tokenizer.json"))
    spec = read_spec(own, "own")
    check_tokenizers(spec, make_tokenizer(spec))
    said = json.loads((own / "tokenizer.json").read_text())
    vocabulary = said["model"]["vocab"]
    vocabulary["hello"], vocabulary["world"] = vocabulary["world"], vocabulary["hello"]
    write_json(own / "tokenizer.json", said)
    for changed in (spec, spec_of(base, own)):
        with pytest.raises(ModelError, match="gives other tokens than the base's"):
            check_tokenizers(changed, make_tokenizer(changed))


def test_of_several_models_an_adapter_goes_to_the_one_that_it_names(
    base: Path, adapters: Path, checkpoint: Checkpoint
) -> None:
    others = [read_spec(checkpoint("bert"), "other"), read_spec(base, "base")]
    specs = with_adapters(others, [f"mine={adapters / 'plain'}"])
    assert [list(spec.adapters) for spec in specs] == [[], ["mine"]]
    with pytest.raises(ConfigError, match="none has that name"):
        with_adapters([others[0], read_spec(checkpoint("xlm-roberta"), "third")], [f"mine={adapters / 'plain'}"])


def test_an_int8_checkpoint_takes_no_adapter_into_its_weights(base: Path, adapters: Path, tmp_path: Path) -> None:
    report = StoredReport(3, "float32", 1.0, 1.0, [], {}, {})
    spec = read_spec(base, "x", adapter=adapters / "plain")
    names = {name for name, *_ in make_runner(base)._model.projections()}
    report.zero_points = dict.fromkeys(names, 128)
    with pytest.raises(ModelError, match="int8 checkpoint, into which no adapter can be put"):
        build_model(spec, weight_files(base), torch.float32, torch.device("cpu"), report)
