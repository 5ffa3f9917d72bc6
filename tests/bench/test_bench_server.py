from __future__ import annotations

import itertools
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import run_inlay
from servers import RunningServer

from inlay.bench.compare import compare, differences, read_result
from inlay.bench.load import run_load
from inlay.bench.server import Requests, parse_words
from inlay.bench.target import Target
from inlay.errors import ConfigError

REPLY = json.dumps({"data": [], "usage": {"total_tokens": 7}}).encode()


@contextmanager
def tiny_server(answer: Callable[[int], bytes | None], delay: float = 0.0) -> Iterator[str]:
    """Answers the n-th request with raw bytes; None closes the connection instead."""
    numbers = itertools.count()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                length = 0
                while line.strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    line = self.rfile.readline()
                self.rfile.read(length)
                time.sleep(delay)
                raw = answer(next(numbers))
                if raw is None:
                    return
                self.wfile.write(raw)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def ok(head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(REPLY), REPLY)


def chunked() -> bytes:
    first, second = REPLY[:5], REPLY[5:]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (first, second))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def test_every_request_is_counted_with_the_tokens_of_its_answer() -> None:
    with tiny_server(lambda number: chunked() if number % 2 else ok(b"x-inlay-cache: hit\r\n")) as url:
        figures = run_load(Target(url), [b"{}"] * 20, 4)
    assert (figures.requests, figures.num_errors, figures.hits) == (20, 0, 10)
    assert figures.tokens_per_s == pytest.approx(7 * figures.qps, rel=0.01)
    assert figures.p50_ms <= figures.p95_ms <= figures.p99_ms


def test_refusals_and_broken_answers_are_counted_and_nothing_hangs() -> None:
    answers = [
        ok(),
        b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nfull",
        None,
        ok(b"connection: close\r\n"),
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n<p>",
        ok(),
    ]
    with tiny_server(lambda number: answers[number]) as url:
        figures = run_load(Target(url), [b"{}"] * len(answers), 1)
    assert figures.errors["429: full"] == 1
    assert figures.errors["the connection was closed without an answer"] == 1
    assert figures.errors["an answer that is not JSON"] == 1
    assert sum(count for reason, count in figures.errors.items() if "not HTTP" in reason) == 1
    assert (figures.requests, figures.num_errors) == (len(answers), 4)


def test_with_a_rate_the_wait_for_a_connection_is_part_of_the_latency() -> None:
    """One connection at 20 ms a request under 200 requests a second: the queue grows, and so does P99."""
    with tiny_server(lambda number: ok(), delay=0.02) as url:
        closed = run_load(Target(url), [b"{}"] * 40, 1)
        overloaded = run_load(Target(url), [b"{}"] * 40, 1, rate=200)
    assert overloaded.requests == 40
    assert overloaded.p99_ms > 4 * closed.p50_ms


def test_a_server_that_is_not_there_is_one_line() -> None:
    done = run_inlay("bench", "server", "http://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "does not answer" in done.stderr


def test_every_text_is_new_and_has_the_length_asked_for() -> None:
    bodies = [json.loads(body) for body in itertools.islice(Requests("m", 3, 2, 9).bodies(1), 200)]
    texts = [text for body in bodies for text in body["input"]]
    assert len(set(texts)) == len(texts) == 600
    assert {len(text.split()) for text in texts} == set(range(2, 10))
    assert bodies[0]["model"] == "m"
    assert parse_words("5-200") == (5, 200)
    for wrong in ("0", "5-", "-5", "9-2", "x", "²"):
        with pytest.raises(ConfigError, match="--words"):
            parse_words(wrong)


def test_bench_server_sweeps_a_real_server_and_finds_a_rate(server: RunningServer) -> None:
    done = run_inlay(
        "bench", "server", server.url, "--model", "demo", "--concurrency", "1,2", "--seconds", "0.2", "--words", "3"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["connections"] for row in rows] == [1, 2]
    assert all(not row["errors"] and row["hits"] == 0 and row["tokens_per_s"] > 0 for row in rows)
    done = run_inlay("bench", "server", server.url + "/v1", "--model", "demo", "--slo", "200ms", "--seconds", "0.1")
    assert json.loads(done.stdout.splitlines()[-1])["slo"]["highest_rate"] > 0


def test_compare_divides_the_rows_that_both_have(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(
        'card\n{"rows": [{"row": "8x128", "tokens_per_s": 30.0}, {"row": "only here", "tokens_per_s": 1}]}\n'
    )
    second.write_text('{"rows": [{"row": "8x128", "tokens_per_s": 20.0, "latency_ms": 3}]}')
    assert compare(read_result(first), read_result(second)) == [{"row": "8x128", "tokens_per_s": 1.5}]
    done = run_inlay("bench", "compare", str(first), str(second))
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == [{"row": "8x128", "tokens_per_s": 1.5}]
    second.write_text('{"rows": []}')
    assert "no row in common" in run_inlay("bench", "compare", str(first), str(second)).stderr
    assert "does not end with the JSON line" in run_inlay("bench", "compare", str(first), __file__).stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "localhost:8000", "ftp://localhost"])
def test_what_is_not_the_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="write http://HOST:PORT"):
        Target(url)


def test_a_server_that_answers_nonsense_is_refused_at_once() -> None:
    with tiny_server(lambda number: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello") as url:
        done = run_inlay("bench", "server", url)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "answers no request: an answer that is not JSON" in done.stderr


def test_a_server_that_fails_keeps_no_promise_and_the_search_ends() -> None:
    refusal = b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno"
    with tiny_server(lambda number: refusal if number % 2 else ok()) as url:
        done = run_inlay("bench", "server", url, "--slo", "1s", "--seconds", "0.1")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["slo"]["highest_rate"] == 0.0
    assert len(result["rows"]) == 1
    assert "no server answers in no time" in run_inlay("bench", "server", url, "--slo", "0s").stderr


@pytest.mark.parametrize("rows", ["[1]", "[{}]", "7"])
def test_what_is_no_result_of_a_bench_is_not_compared(tmp_path: Path, rows: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(f'{{"rows": {rows}}}')
    with pytest.raises(ConfigError, match="not a bench's"):
        read_result(file)


def test_figures_that_are_no_numbers_are_passed_over() -> None:
    result = {"rows": [{"connections": 1, "qps": "x", "p50_ms": 2.0}]}
    assert compare(result, result) == [{"row": "1 connections", "p50_ms": 1.0}]


def test_compare_says_what_else_is_different() -> None:
    first = {"bench": "server", "card": {"words": "15", "commit": "a", "cores": 2}}
    second = {"bench": "server", "card": {"words": "5", "commit": "b", "cores": 2}}
    assert differences(first, second) == ["words is '15' and '5'"]


def test_of_several_keys_the_first_is_sent() -> None:
    with RunningServer("demo", env={"INLAY_API_KEY": "one,two"}) as server:
        done = run_inlay(
            "bench", "server", server.url, "--concurrency", "1", "--seconds", "0.1", INLAY_API_KEY="one,two"
        )
    assert done.returncode == 0, done.stderr
