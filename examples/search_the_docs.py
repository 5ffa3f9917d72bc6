"""Precomputes this project's own docs, a section a row, and searches them."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
INLAY = [sys.executable, "-m", "inlay"]

with tempfile.TemporaryDirectory() as folder:
    rows = Path(folder) / "docs.jsonl"
    with rows.open("w") as file:
        for page in sorted(DOCS.glob("*.md")):
            for number, section in enumerate(re.split(r"^## ", page.read_text(), flags=re.MULTILINE)):
                file.write(json.dumps({"id": f"{page.stem}:{number}", "text": section, "page": page.stem}) + "\n")
    options = ["--id", "id", "--keep", "page", "--truncate", "end"]
    subprocess.run([*INLAY, "precompute", str(rows), "-o", f"{folder}/corpus", *options], check=True)
    for question in ("what happens when Redis dies", "how do I stop the server in good order"):
        print(question)
        command = [*INLAY, "search", f"{folder}/corpus", question, "-k", "2"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
