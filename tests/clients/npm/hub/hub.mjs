// @huggingface/hub: lists, asks and downloads a repo.
//
//   node hub.mjs ENDPOINT KIND REPO REVISION PATH...
//
// Prints one JSON object: what each function of the library said, and of each path its sha256 and size.

import { createHash } from "node:crypto";
import { readFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as hub from "@huggingface/hub";

const [hubUrl, type, name, revision, ...paths] = process.argv.slice(2);
const repo = { type, name };
const at = { repo, revision, hubUrl };
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const told = (bytes) => ({ sha256: sha256(bytes), size: bytes.length });
const bytesOf = async (blob) => Buffer.from(await blob.arrayBuffer());

const all = async (generator) => {
  const found = [];
  for await (const one of generator) found.push(one);
  return found;
};
const failure = async (promise) => {
  try {
    await promise;
    return null;
  } catch (error) {
    return { status: error.statusCode ?? null, message: String(error.message) };
  }
};

await hub.checkRepoAccess({ repo, hubUrl });
const files = await all(hub.listFiles({ ...at, recursive: true }));
const downloaded = {};
const infos = {};
const parts = {};
for (const path of paths) {
  const blob = await hub.downloadFile({ ...at, path });
  downloaded[path] = told(await bytesOf(blob));
  const info = await hub.fileDownloadInfo({ ...at, path });
  infos[path] = { etag: info.etag, size: info.size, xet: info.xet ?? null };
  if (blob.size > 100) parts[path] = sha256(await bytesOf(blob.slice(10, 100)));
}
const cacheDir = mkdtempSync(join(tmpdir(), "hub-mjs-"));
const snapshot = await hub.snapshotDownload({ ...at, cacheDir });
const model = type === "model" ? await hub.modelInfo({ name, revision, hubUrl, additionalFields: ["sha", "author"] }) : null;
console.log(
  JSON.stringify({
    files: files.filter((f) => f.type === "file").map((f) => ({ path: f.path, size: f.size, oid: f.lfs?.oid ?? f.oid })),
    xet: files.some((f) => f.xetHash !== undefined),
    downloaded,
    infos,
    parts,
    pathsInfo: (await hub.pathsInfo({ ...at, paths, expand: true })).map((f) => ({ path: f.path, size: f.size, commit: f.lastCommit?.id })),
    commit: snapshot.split("/").pop(),
    snapshot: Object.fromEntries(paths.map((path) => [path, told(readFileSync(join(snapshot, path)))])),
    sha: model?.sha ?? null,
    exists: await hub.fileExists({ ...at, path: paths[0] }),
    absent: await hub.fileExists({ ...at, path: "there/is/none.bin" }),
    models: (await all(hub.listModels({ search: { query: name.split("/")[1] }, hubUrl }))).map((m) => m.name),
    unknown: await failure(hub.checkRepoAccess({ repo: { type, name: "acme/there-is-none" }, hubUrl })),
  }),
);
