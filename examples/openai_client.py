"""OpenAI's own client against a running server (make serve)."""

import sys

from openai import BadRequestError, OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000"
client = OpenAI(base_url=f"{url}/v1", api_key="none")

reply = client.embeddings.create(model="demo", input=["a question", "an answer"])
print(len(reply.data), "vectors of", len(reply.data[0].embedding), "for", reply.usage.prompt_tokens, "tokens")

try:
    client.embeddings.create(model="demo", input=["fine", ""])
except BadRequestError as error:
    print(error.param, "-", error.body["message"])
