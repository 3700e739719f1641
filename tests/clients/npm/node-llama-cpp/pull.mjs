// node-llama-cpp: what its `pull` does, by the library's own downloader. Nothing is built and no model is run.
//
//   HF_ENDPOINT=.. node node_llama.mjs FOLDER URI...
//
// Prints one JSON object: URI -> the file it became, its sha256 and size.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { createModelDownloader } from "node-llama-cpp";

const [dirPath, ...uris] = process.argv.slice(2);
const found = {};
for (const modelUri of uris) {
  try {
    const downloader = await createModelDownloader({ modelUri, dirPath, showCliProgress: false });
    const path = await downloader.download();
    const bytes = readFileSync(path);
    found[modelUri] = { file: basename(path), sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
  } catch (error) {
    found[modelUri] = { error: String(error.message) };
  }
}
console.log(JSON.stringify(found));
process.exit(0);
