"""Many coroutines, one model: they share batches, and the same text is computed once."""

import asyncio

from inlay import AsyncEmbedder

QUESTIONS = [f"What is the answer to question {i % 10}?" for i in range(100)]


async def main() -> None:
    async with AsyncEmbedder("demo") as embedder:
        vectors = await asyncio.gather(*(embedder.embed(question) for question in QUESTIONS))
    print(len(vectors), "answers,", len({vector.tobytes() for vector in vectors}), "different")


asyncio.run(main())
