// The vendors' own clients for JavaScript: node clients.mjs URL KEY. Prints what each gave, as JSON.
import { InferenceClient } from "@huggingface/inference";
import { CohereClientV2 } from "cohere-ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { VoyageAIClient } from "voyageai";

const [url, key] = process.argv.slice(2);
const texts = ["a stone in a ring", "a railway timetable", "jewellery"];
const documents = ["world", "hello hello", "the way of the water"];
const nameOf = async (promise) => {
  try {
    await promise;
    return "no error";
  } catch (error) {
    return error.constructor.name;
  }
};
const rowsOf = (reply) => reply.data.map((row) => row.embedding);
const found = {};

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
found.openai = rowsOf(await openai.embeddings.create({ model: "demo", input: texts }));
found.openaiError = await nameOf(openai.embeddings.create({ model: "nobody", input: "a" }));
const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 });
found.openaiKey = await nameOf(stranger.embeddings.create({ model: "demo", input: "a" }));

const cohere = new CohereClientV2({ environment: url, token: key });
const embedded = await cohere.embed({ model: "demo", texts, inputType: "search_document", embeddingTypes: ["float", "int8"] });
found.cohere = embedded.embeddings.float;
found.cohereInt8 = embedded.embeddings.int8.map((row) => row.length);
found.cohereRerank = (await cohere.rerank({ model: "ranker", query: "hello", documents })).results.map((row) => row.index);
found.cohereError = await nameOf(cohere.embed({ model: "nobody", texts: ["a"], inputType: "search_query", embeddingTypes: ["float"] }, { maxRetries: 0 }));

const voyage = new VoyageAIClient({ environment: `${url}/v1`, apiKey: key });
found.voyage = rowsOf(await voyage.embed({ model: "demo", input: texts }));
found.voyageRerank = (await voyage.rerank({ model: "ranker", query: "hello", documents })).data.map((row) => row.index);

const ollama = new Ollama({ host: url, headers: { authorization: `Bearer ${key}` } });
found.ollama = (await ollama.embed({ model: "demo", input: texts })).embeddings;
found.ollamaModels = (await ollama.list()).models.map((model) => model.name);
found.ollamaError = await nameOf(ollama.embed({ model: "nobody", input: "a" }));

const hub = new InferenceClient(key, { endpointUrl: url });
found.huggingFace = await hub.featureExtraction({ inputs: texts });

console.log(JSON.stringify(found));
