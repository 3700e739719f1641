// transformers.js: loads a model's config and tokenizer from the mirror. The weights would need an ONNX export.
//
//   node transformers.mjs ENDPOINT REPO CACHE TEXT
//
// Prints one JSON object: the model's type, the tokens of TEXT, and what a model that is not there says.

import { AutoConfig, AutoTokenizer, env } from "@huggingface/transformers";

const [endpoint, repo, cache, text] = process.argv.slice(2);
env.remoteHost = `${endpoint}/`;
env.cacheDir = cache;
env.allowLocalModels = false;

const config = await AutoConfig.from_pretrained(repo);
const tokenizer = await AutoTokenizer.from_pretrained(repo);
const absent = await AutoConfig.from_pretrained("acme/there-is-none").then(
  () => null,
  (error) => String(error.message),
);
console.log(JSON.stringify({ type: config.model_type, ids: tokenizer.encode(text), absent }));
