"""Builds the container image and tries it: python image.py build|test [--base IMAGE] [--mount PATH …].

With docker, podman or buildah, whichever is there. `test` builds the demo image, starts it with a read-only root and no
capabilities, asks it, looks at its health check, and stops it; it prints the image's size, how long the server took to
be ready and to stop, its memory and its status, and fails where one of them is over its bound. `--base` takes another
base image, `--mount` gives paths of this machine to the build: where there is no network, those of pip's files.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
PORT = 8377
NAME = "inlay-image-test"
RUNNERS, BUILDERS = ("docker", "podman"), ("docker", "podman", "buildah")
MOST = {"size_gb": 1.8, "ready_seconds": 8.0, "memory_mib": 300.0, "stop_seconds": 3.0, "status": 0.0}


def tool(names: tuple[str, ...]) -> str:
    """The first that is there and works: docker's command is no use without its daemon."""
    for name in names:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    raise SystemExit(f"none of {', '.join(names)} works here")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def build(target: str, tag: str, asked: argparse.Namespace) -> None:
    name = (
        tool(BUILDERS) if not asked.base else tool(BUILDERS[::-1])
    )  # buildah alone can do without a daemon or a network
    command = [name, "build", "--target", target, "-t", tag]
    if name != "docker":
        command += ["--format", "docker"]  # else the health check is dropped
    if name == "buildah":
        command += ["--isolation", "chroot", "--layers", *(("--pull-never",) if asked.base else ())]
    arguments = [f"PYTHON={asked.base}"] if asked.base else []
    for argument in (*arguments, *asked.build_arg):
        command += ["--build-arg", argument]
    for path in asked.mount:
        command += ["-v", f"{path}:{path}:ro"]
    subprocess.run([*command, str(ROOT)], check=True)


def try_image(tag: str) -> dict[str, float]:
    runner = tool(RUNNERS)
    subprocess.run([runner, "rm", "-f", NAME], capture_output=True)
    options = ["--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108 - the container's
    options += ["--security-opt", "no-new-privileges", "-e", f"INLAY_PORT={PORT}"]
    began = time.perf_counter()
    run(runner, "run", "-d", "--name", NAME, *options, tag)
    try:
        ready = wait_ready(began)
        body = {"model": "demo", "input": ["a stone in a ring", "a railway timetable"]}
        reply = httpx.post(f"http://127.0.0.1:{PORT}/v1/embeddings", json=body, timeout=30).raise_for_status().json()
        if [len(row["embedding"]) for row in reply["data"]] != [384, 384]:
            raise SystemExit(f"an answer is wrong: {reply}")
        run(runner, "exec", NAME, "inlay", "health", "--ready")
        memory = mib_of(run(runner, "stats", "--no-stream", "--format", "{{.MemUsage}}", NAME))
        stopping = time.perf_counter()
        run(runner, "stop", "-t", "30", NAME)
        stopped = time.perf_counter() - stopping
        (state,) = json.loads(run(runner, "inspect", NAME))
        (image,) = json.loads(run(runner, "image", "inspect", tag))
    finally:
        subprocess.run([runner, "rm", "-f", NAME], capture_output=True)
    return {
        "size_gb": image["Size"] / 1e9,
        "ready_seconds": ready,
        "memory_mib": memory,
        "stop_seconds": stopped,
        "status": float(state["State"]["ExitCode"]),
        "stop_at_once_seconds": stop_at_once(runner, tag, options),
    }


def mib_of(usage: str) -> float:
    """Of `249.1MB / 25GB` or `237.6MiB / 24GiB`: what the container holds, without file pages that can go."""
    found = re.match(r"([\d.]+)\s*([kMG])(i?)B", usage)
    if found is None:
        raise SystemExit(f"the memory of the container is not told: {usage}")
    base = 1024 if found[3] else 1000
    return float(found[1]) * base ** " kMG".index(found[2]) / (1 << 20)


def wait_ready(began: float) -> float:
    for _ in range(1200):
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/ready", timeout=5).status_code == httpx.codes.OK:
                return time.perf_counter() - began
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise SystemExit("the server did not become ready in a minute")


def stop_at_once(runner: str, tag: str, options: list[str]) -> float:
    """Of a container that has just begun: its first process must not wait for its own handlers."""
    run(runner, "run", "-d", "--name", NAME, *options, tag)
    try:
        time.sleep(0.3)
        began = time.perf_counter()
        run(runner, "stop", "-t", "30", NAME)
        return time.perf_counter() - began
    finally:
        subprocess.run([runner, "rm", "-f", NAME], capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["build", "test"])
    parser.add_argument("--target", default="demo", choices=["demo", "server"])
    parser.add_argument("--base", help="image to build on")
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--mount", action="append", default=[])
    asked = parser.parse_args()
    tag = f"localhost/inlay:{asked.target}"
    build(asked.target, tag, asked)
    if asked.what == "build":
        return
    found = try_image(tag)
    over = [name for name, value in found.items() if value > MOST.get(name, MOST["stop_seconds"])]
    for name, value in found.items():
        print(
            f"{name:22} {value:8.2f}   at most {MOST.get(name, MOST['stop_seconds']):g}{'   OVER' if name in over else ''}"
        )
    sys.exit(bool(over))


if __name__ == "__main__":
    main()
