"""Files that are damaged, removed, or on a disk that has a fault, while a server uses them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from kind import Run
from server import EXACT, TEXTS, Server
from tries import asking, exchange, is_refusal, request_of

SHIM = Path(__file__).with_name("shim.c")


class Disk:
    """A directory whose disk has a fault when it is told so."""

    def __init__(self, run: Run) -> None:
        folder = run.folder()
        self.path, self._mode, library = folder / "disk", folder / "mode", folder / "shim.so"
        self.path.mkdir()
        self.have("none")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
        self.env = {"LD_PRELOAD": str(library), "FAULT_DIR": str(self.path), "FAULT_MODE": str(self._mode)}

    def have(self, mode: str) -> None:
        whole = self._mode.with_suffix(".new")
        whole.write_text(mode)
        whole.rename(self._mode)


def _with_faults(run: Run, mode: str) -> None:
    """A disk tier that has a fault for a while: good clients get their vectors before, meanwhile and after."""
    disk = Disk(run)
    known = run.server().expected
    server = run.own_server("--cache", f"disk://{disk.path}/cache?size=64MiB", env=disk.env, expected=known)
    for told in ("none", mode, "none"):
        disk.have(told)
        for place in range(run.number):
            text = TEXTS[place % len(TEXTS)]
            headers = "" if place % 2 else "cache-control: no-cache\r\n"
            run.tries.good(server.address, server.expected[text], asking(text, headers))


def disk_full(run: Run) -> None:
    """No write succeeds any more."""
    _with_faults(run, "full")


def disk_read_only(run: Run) -> None:
    """The file system has become read-only."""
    _with_faults(run, "readonly")


def disk_errors(run: Run) -> None:
    """Every read and write fails."""
    _with_faults(run, "error")


def disk_slow(run: Run) -> None:
    """Every read and write takes 50 ms."""
    _with_faults(run, "slow")


def disk_hangs(run: Run) -> None:
    """No read and no write comes back."""
    _with_faults(run, "hang")


def disk_deleted(run: Run) -> None:
    """The directory of the disk tier is removed under the server."""
    folder = run.folder()
    server = run.own_server("--cache", f"disk://{folder}/cache?size=64MiB")
    for place in range(run.number):
        if place == run.number // 2:
            shutil.rmtree(folder / "cache")
        text = TEXTS[place % len(TEXTS)]
        run.tries.good(server.address, server.expected[text], asking(text, ""))


def damage(run: Run) -> None:
    """Files of the disk tier that are flipped, zeroed, cut or removed while the server uses them."""
    folder = run.folder()
    server = run.own_server("--cache", f"disk://{folder}/cache?size=64MiB")
    for place in range(run.number):
        files = [
            file for file in (folder / "cache").rglob("*") if file.suffix in (".seg", ".mdb") and file.stat().st_size
        ]
        if files and place % 3 == 0:
            damage_file(run.chance.choice(files), run.chance)
        text = run.chance.choice(TEXTS)
        run.tries.good(server.address, server.expected[text], asking(text, ""))


def damage_file(file: Path, chance: random.Random, suffix: str = ".seg") -> None:
    size = file.stat().st_size
    kind = chance.randrange(4)
    if kind == 0:
        os.truncate(file, chance.randrange(size))
    elif kind == 1 and file.suffix == suffix:
        file.unlink()
    else:
        with suppress(OSError), file.open("r+b") as opened:
            opened.seek(chance.randrange(size))
            opened.write(bytes(4096) if kind == 2 else chance.randbytes(8))


def cache_damaged_at_rest(run: Run) -> None:
    """The same while no server runs: the next one starts, and nothing of it is wrong."""
    folder = run.folder()
    cache = f"disk://{folder}/cache?size=64MiB"
    expected = None
    for _ in range(max(run.number // 20, 2)):
        with Server("--cache", cache, expected=expected) as server:
            expected = server.expected
            run.ask(server, 10)
            for text in TEXTS:
                run.tries.good(server.address, server.expected[text], asking(text, ""))
        files = [file for file in (folder / "cache").rglob("*") if file.is_file() and file.stat().st_size]
        for file in run.chance.sample(files, min(len(files), 2)):
            damage_file(file, run.chance)


NUM_ROWS = 200


def make_corpus(run: Run, folder: Path) -> Path:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": n, "text": f"row {n} of things"}) + "\n" for n in range(NUM_ROWS)))
    command = [sys.executable, "-m", "inlay", "precompute", str(rows), "-o", str(folder / "corpus"), "--id", "id"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **EXACT})
    return folder / "corpus"


def corpus_damage(run: Run) -> None:
    """Files of a served corpus that are flipped: each hit is a row as it was; damaged ones are left out."""
    corpus = make_corpus(run, run.folder())
    server = run.own_server("--corpus", f"things={corpus}", "--cache", "none")
    queries = [f"row {number}" for number in range(10)]
    rows = [{*_hits_of(_search(server, query, NUM_ROWS)[1])} for query in queries]  # all that there are, as they are
    files = [file for file in corpus.rglob("*") if file.suffix in (".npy", ".jsonl") and file.stat().st_size]
    num_short = 0
    for place in range(run.number):
        if place % 5 == 4:
            file = run.chance.choice(files)
            with file.open("r+b") as opened:
                opened.seek(run.chance.randrange(128, file.stat().st_size - 4))
                opened.write(run.chance.randbytes(4))
        status, body = _search(server, queries[place % len(queries)], 3)
        is_right = status == 200 and rows[place % len(queries)].issuperset(_hits_of(body))
        num_short += status == 200 and len(_hits_of(body)) < 3
        run.tries["right" if is_right else "refused" if is_refusal(status, body) else "wrong"] += 1
    told = server.get("/info")["corpora"][0]["broken_rows"]
    run.tries.note(told or not num_short)  # fewer hits than were asked for are said to be fewer
    run.ask(server, 10)


def _search(server: Server, query: str, top_k: int) -> tuple[int, Any]:
    body = {"corpus": "things", "query": query, "top_k": top_k}
    return exchange(server.address, request_of(body, path="/v1/search"))


def _hits_of(body: Any) -> list[tuple[int, str, float]]:  # noqa: ANN401 - JSON
    return [(hit["id"], hit["text"], round(hit["score"], 4)) for hit in body["data"]]


def model_removed(run: Run) -> None:
    """The files of a model that is being served are removed, and written over."""
    folder = run.folder()
    found = subprocess.run(
        [sys.executable, "-c", "from inlay.models.source import locate; print(locate('demo'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.copytree(found.stdout.strip(), folder / "demo")
    server = run.own_server("--cache", "none", "--served-model-name", "demo", model=str(folder / "demo"))
    run.ask(server)
    shutil.rmtree(folder / "demo")
    run.ask(server)


def log_is_gone(run: Run) -> None:
    """The log's disk is full, and then fails."""
    disk = Disk(run)
    server = run.own_server("--log-level", "debug", "--cache", "none", env=disk.env, log=disk.path / "log")
    for mode in ("full", "error", "none"):
        disk.have(mode)
        run.ask(server)
