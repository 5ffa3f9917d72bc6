from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from checkpoints import text_of

from inlay import AsyncEmbedder, Embedder, InlayError
from inlay.errors import ConfigError, ContextLengthExceeded, EmptyInput, InvalidInput, ModelError, ShuttingDown
from inlay.serving.output_dtypes import OutputDtype, convert_rows


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with Embedder("demo", dtype="float32") as made:
        yield made


@pytest.fixture(scope="module")
def tiny(checkpoint: Callable[[str], Path]) -> Iterator[Embedder]:
    with Embedder(str(checkpoint("qwen3")), dtype="float32", cache="none") as made:
        yield made


def test_vectors_are_float32_rows_of_unit_length(embedder: Embedder) -> None:
    vectors = embedder.embed(["a", "b", "a"])
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert np.array_equal(vectors[0], vectors[2])


def test_a_lone_string_gives_a_lone_vector(embedder: Embedder) -> None:
    assert np.array_equal(embedder.embed("a"), embedder.embed(["a"])[0])


@pytest.mark.parametrize("output_dtype", list(OutputDtype))
def test_vectors_come_in_the_type_that_is_asked_for(embedder: Embedder, output_dtype: OutputDtype) -> None:
    texts = ["a river", "some stones in it"]
    expected = convert_rows(embedder.embed(texts), output_dtype)
    found = embedder.embed(texts, output_dtype=output_dtype.value)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert np.array_equal(embedder.embed(texts[0], output_dtype=output_dtype.value), expected[0])
    assert np.array_equal(embedder.embed_rows(texts, output_dtype=output_dtype.value).vectors, expected)


@pytest.mark.parametrize(
    "arguments", [{"output_dtype": "int4"}, {"output_dtype": "int8", "normalize": False}], ids=["unknown", "unit"]
)
def test_a_type_that_cannot_be_is_refused(embedder: Embedder, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="output_dtype"):
        embedder.embed(["a"], **arguments)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_prompts_instructions_and_dimensions_are_arguments(tiny: Embedder) -> None:
    query = tiny.embed(["look"], prompt="query", dimensions=40)
    task = "Given a web search query, retrieve relevant passages that answer the query"
    assert query.shape == (1, 40)
    assert np.array_equal(query, tiny.embed(["look"], instruction=task, dimensions=40))
    assert not np.allclose(query, tiny.embed(["look"], dimensions=40))


def test_every_model_has_queries_and_documents_though_it_treats_them_alike(embedder: Embedder) -> None:
    assert np.array_equal(embedder.embed("a", prompt="query"), embedder.embed("a", prompt="document"))


def test_a_cut_of_a_model_not_trained_for_it_is_done_with_a_warning(embedder: Embedder) -> None:
    with pytest.warns(UserWarning, match="no Matryoshka"):
        vectors = embedder.embed(["a", "b"], prompt="query", dimensions=256)
    assert vectors.shape == (2, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_more_texts_than_a_slice_come_back_in_order(tiny: Embedder) -> None:
    texts = [text_of(1 + i % 7, i) for i in range(2600)]
    vectors = tiny.embed(texts)
    for i in (0, 1023, 1024, 2047, 2048, 2599):
        assert np.array_equal(vectors[i], tiny.embed(texts[i]))


def test_the_cache_gives_the_same_bits(checkpoint: Callable[[str], Path]) -> None:
    with Embedder(str(checkpoint("bert")), cache=["memory://1MiB"]) as cached:
        first = cached.embed(["hello", "world"])
        assert np.array_equal(cached.embed(["world", "hello"]), first[::-1])


@pytest.mark.parametrize(
    ("texts", "arguments", "error", "told"),
    [
        (["a", ""], {}, InvalidInput, r"input\[1\] is empty"),
        (["a", None], {}, InvalidInput, r"input\[1\] is of type NoneType"),
        (["a"] * 1500 + ["a " * 300], {}, ContextLengthExceeded, r"input\[1500\] has 302 tokens"),
        (["\ud800"], {}, InvalidInput, "Unicode"),
        (["a"], {"prompt": "haiku"}, InvalidInput, "it has"),
        (["a"], {"truncate": "left"}, InvalidInput, "none, start or end"),
        (["a"], {"dimensions": 9999}, InvalidInput, "not trained|from"),
        (["a"], {"dimensions": 3.5}, InvalidInput, "whole number"),
        (["a"], {"instruction": "x"}, InvalidInput, "no instructions"),
    ],
)
def test_mistakes_are_told_as_the_server_tells_them(
    embedder: Embedder, texts: list[str], arguments: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        embedder.embed(texts, **arguments)  # type: ignore[arg-type]


def test_an_unknown_argument_is_a_type_error(embedder: Embedder) -> None:
    with pytest.raises(TypeError, match="dimension"):
        embedder.embed(["a"], dimension=3)  # type: ignore[call-arg]


def test_a_bad_row_costs_only_itself(embedder: Embedder) -> None:
    results = embedder.embed_rows(["a", "", "b", "x " * 300])
    assert results.rows == [0, 2]
    assert results.vectors.shape == (2, 384)
    assert {row: type(error) for row, error in results.errors.items()} == {1: EmptyInput, 3: ContextLengthExceeded}


def test_it_works_inside_a_running_event_loop(embedder: Embedder) -> None:
    async def notebook_cell() -> np.ndarray:
        return embedder.embed(["a"])

    assert asyncio.run(notebook_cell()).shape == (1, 384)


def test_the_asynchronous_one_is_the_same_awaitable(embedder: Embedder) -> None:
    async def story() -> None:
        async with AsyncEmbedder("demo", dtype="float32") as awaitable:
            rows = await asyncio.gather(*(awaitable.embed(text) for text in "abcabc"))
            assert np.array_equal(np.array(rows), embedder.embed(list("abcabc")))
            with pytest.raises(InvalidInput):
                await awaitable.embed([""])

    asyncio.run(story())


def test_a_closed_one_refuses(checkpoint: Callable[[str], Path]) -> None:
    with Embedder(str(checkpoint("bert"))) as made:
        made.embed("a")
    made.close()
    with pytest.raises(ShuttingDown, match="closed"):
        made.embed("a")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": "/no/such/model"}, ModelError),
        ({"dtype": "int3"}, ConfigError),
        ({"device": "tpu"}, ConfigError),
        ({"cache": "disk://x"}, ConfigError),
        ({"context_length": 9999}, ModelError),
        ({"max_batch_tokens": 0}, ConfigError),
        ({"batch_size": 9}, ConfigError),
    ],
)
def test_what_cannot_be_made_says_why(arguments: dict[str, object], error: type[InlayError]) -> None:
    with pytest.raises(error):
        Embedder(**arguments)  # type: ignore[arg-type]


def test_a_process_that_forgets_to_close_ends_in_peace() -> None:
    program = "from inlay import Embedder; print(Embedder('demo').embed('a').shape)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(384,)\n", "")


def test_an_overflowing_model_is_refused_in_half_precision(tmp_path: Path) -> None:
    from checkpoints import make_checkpoint
    from safetensors.torch import load_file, save_file

    path = make_checkpoint(tmp_path, "qwen3")
    tensors = load_file(path / "model.safetensors")
    for name in ("up_proj", "gate_proj"):
        tensors[f"layers.0.mlp.{name}.weight"] *= 20_000  # fit float16 themselves; their product does not
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="overflows in float16"):
        Embedder(str(path), dtype="float16")
    with Embedder(str(path), dtype="bfloat16") as fine:
        assert np.isfinite(fine.embed("hello")).all()


def embed_until_refused(embedder: Embedder, number: int, ended: list[InlayError]) -> None:
    while True:
        try:
            embedder.embed([f"word {number} " * 100])
        except InlayError as error:
            ended.append(error)
            return


def test_closing_answers_everyone_who_still_waits(checkpoint: Callable[[str], Path]) -> None:
    for _ in range(5):
        embedder = Embedder(str(checkpoint("bert")), cache="none")
        ended: list[InlayError] = []

        threads = [threading.Thread(target=embed_until_refused, args=(embedder, number, ended)) for number in range(8)]
        for thread in threads:
            thread.start()
        embedder.close()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert all(isinstance(error, ShuttingDown) for error in ended)


def test_any_number_of_coroutines_is_served(checkpoint: Callable[[str], Path]) -> None:
    async def story() -> None:
        async with AsyncEmbedder(str(checkpoint("bert"))) as embedder:
            rows = await asyncio.gather(*(embedder.embed(f"hello {i % 40}") for i in range(1500)))
            assert len(rows) == 1500

    asyncio.run(story())


def test_one_that_is_forgotten_lets_its_threads_end(checkpoint: Callable[[str], Path]) -> None:
    path = str(checkpoint("bert"))
    before = threading.active_count()
    for _ in range(3):
        Embedder(path).embed("a")
    gc.collect()
    assert threading.active_count() <= before + 1


def test_cutting_the_start_keeps_the_prompt(tiny: Embedder) -> None:
    long = text_of(900)
    cut = tiny.embed(long, prompt="query", truncate="start")
    assert not np.allclose(cut, tiny.embed(long, truncate="start"))
    assert not np.allclose(cut, tiny.embed(long, prompt="query", truncate="end"))


FORKING = """
import os, sys
from inlay import Embedder
from inlay.errors import ConfigError
embedder = Embedder(sys.argv[1], cache="none")
embedder.embed("a")
child = os.fork()
if child == 0:
    try:
        embedder.embed("b")
    except ConfigError as error:
        print("child:", error, flush=True)
    embedder.close()
    sys.exit(0)  # and the finalisers run
_, status = os.waitpid(child, 0)
print("parent:", os.waitstatus_to_exitcode(status), embedder.embed("c").shape, flush=True)
"""


def test_after_a_fork_the_child_is_told_and_nothing_hangs(checkpoint: Callable[[str], Path]) -> None:
    command = [sys.executable, "-c", FORKING, str(checkpoint("bert"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert "make one in the process that uses it" in lines[0], done.stderr
    assert lines[1] == "parent: 0 (48,)"


def test_one_that_its_own_thread_collects_lets_go_without_a_deadlock(checkpoint: Callable[[str], Path]) -> None:
    async def collect() -> None:
        gc.collect()

    gc.disable()
    try:
        embedder = Embedder(str(checkpoint("bert")), cache="none")
        thread, loop = embedder._runtime._thread, embedder._runtime._loop
        cycle: list[object] = [embedder]
        cycle.append(cycle)
        del embedder, cycle
        asyncio.run_coroutine_threadsafe(collect(), loop)
        thread.join(20)
        assert not thread.is_alive()
    finally:
        gc.enable()


def test_who_interrupts_embed_stops_its_work(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Embedder(str(checkpoint("bert")), cache="none") as embedder:
        started = threading.Event()
        original = Future.result

        def interrupted(self: Future[object], timeout: float | None = None) -> object:
            started.wait(20)
            raise KeyboardInterrupt

        async def long_work() -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.set()
                raise

        stopped = threading.Event()
        monkeypatch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embedder._runtime.wait_for(long_work())
        monkeypatch.setattr(Future, "result", original)
        assert stopped.wait(20)


def test_an_asynchronous_one_that_cannot_load_leaves_no_threads(tmp_path: Path) -> None:
    from checkpoints import make_checkpoint

    path = make_checkpoint(tmp_path, "bert")
    (path / "model.safetensors").unlink()
    before = threading.active_count()

    async def story() -> None:
        with pytest.raises(ModelError, match="no weights"):
            async with AsyncEmbedder(str(path)):
                pass

    asyncio.run(story())
    assert threading.active_count() <= before + 1


def test_a_model_that_is_not_there_leaves_no_tier_open(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError):
        Embedder("/no/such/model", cache=f"disk://{tmp_path}/cache")
    assert not (tmp_path / "cache").exists()


def test_two_embedders_share_a_directory(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    arguments = {"cache": f"disk://{tmp_path}/cache?size=8MiB"}
    with Embedder(str(checkpoint("bert")), **arguments) as one, Embedder(str(checkpoint("bert")), **arguments) as other:
        first = one.embed_rows(["hello"])
        wait = 200
        while not (again := other.embed_rows(["hello"])).num_cached and (wait := wait - 1):
            time.sleep(0.02)
        assert again.num_cached == 1
        assert np.array_equal(first.vectors, again.vectors)


def test_who_leaves_and_closes_leaves_no_traceback_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with AsyncEmbedder("demo", cache="none") as embedder:
            leaving = asyncio.create_task(embedder.embed([f"text {number} " * 40 for number in range(600)]))
            await asyncio.sleep(0.2)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving

    asyncio.run(story())
    gc.collect()
    assert "never retrieved" not in caplog.text
